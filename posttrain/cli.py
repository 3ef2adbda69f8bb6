"""The `posttrain` command: parse, call, turn errors into exit codes. Everything heavy is imported by the command.

Exit codes: 0 done, 1 a fault of the program, 2 wrong input (or a disk that takes no more), 3 the gate did not hold, 75
stopped or busy: the same command, run again, goes on. 128 + the signal's number where nothing can be gone on with.
"""

import argparse
import atexit
import difflib
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

STAGES = {
    "prepare": "problems, golds and teacher traces: data/prepared/",
    "sft": "supervised fine-tuning on the traces: models/sft/",
    "grpo": "reinforcement learning against verifiable rewards: models/grpo/",
    "evaluate": "the models on held-out problems and benchmarks: results/evaluate/; or any models that are named",
    "report": "one page with curves, tables and samples: results/report.html",
}


def main(argv: Sequence[str] | None = None) -> int:
    from posttrain.terminal import harmless_output

    with harmless_output():
        return called(argv)


def called(argv: Sequence[str] | None) -> int:
    """The exit code of a command, whose errors are told."""
    arguments = parser().parse_args(argv)
    from posttrain.errors import PosttrainError

    try:
        require_own_code(sys.argv[1:] if argv is None else argv)
        return int(arguments.run(arguments) or 0)
    except PosttrainError as error:
        sys.stdout.flush()
        print(f"posttrain {arguments.command}: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(f"posttrain {arguments.command}: interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    except BrokenPipeError:  # `posttrain recipe | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        from posttrain.outputs.disk import disk_error

        if (told := disk_error(error, arguments.command)) is None:
            raise
        print(f"posttrain {arguments.command}: {told}", file=sys.stderr)
        return told.exit_code
    except Exception as error:
        if (code := ended_by(error)) is None:
            raise
        return code


def ended_by(error: BaseException) -> int | None:
    """The exit code for the signal that an error followed: what a handler raises within a lock of `threading` comes out
    as a RuntimeError of that lock."""
    before = error.__context__
    if before is None:
        return None
    if isinstance(before, KeyboardInterrupt):
        return 128 + signal.SIGINT
    told = isinstance(before, SystemExit) and before.code == 128 + signal.SIGTERM
    return 128 + signal.SIGTERM if told else ended_by(before)


def program() -> NoReturn:
    """The command as a process, which ends without its destructors: with TRL loaded they take more than a second."""
    code = main()
    for thread in threading.enumerate():
        if thread is not threading.main_thread() and not thread.daemon:
            thread.join()
    atexit._run_exitfuncs()
    with suppress(BrokenPipeError):
        sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def require_own_code(argv: Sequence[str]) -> None:
    """Refuse to run other code than DVC records: in a clone, the clone's runs.

    An environment that was made in another clone has a `posttrain` that runs that one's code, wherever it is called.

    Raises: InputError with the command to type
    """
    ours, here = Path(__file__).resolve().parent, Path.cwd() / "posttrain"
    if (here / "__init__.py").is_file() and here.resolve() != ours:
        from posttrain.errors import InputError

        raise InputError(
            "posttrain",
            got=f"the code of {ours.parent}, which this environment was made for",
            wanted=f"the code of the working folder, {here.parent}, which DVC records",
            do=f"python -m posttrain {' '.join(argv)}",
        )


def parser() -> argparse.ArgumentParser:
    root: argparse.ArgumentParser = Parser(
        prog="posttrain",
        description="SFT, GRPO and evaluation of a reasoning model. Hyperparameters are in params.yaml, nowhere else; "
        "`dvc repro` runs all stages that a change touches.",
    )
    root.add_argument("--version", action=Version, nargs=0, help="of posttrain, and of what decides its results")
    commands = root.add_subparsers(
        dest="command", required=True, metavar="COMMAND", parser_class=argparse.ArgumentParser
    )
    for name, text in STAGES.items():
        stage = commands.add_parser(name, help=text, description=text)
        stage.set_defaults(run=run_stage)
        if name == "evaluate":
            add_evaluate(stage)
    text = "what is known to go wrong, before anything is spent; exit code 2 if something cannot work"
    commands.add_parser("check", help=text, description=text).set_defaults(run=run_check)
    text = "the data card of data/prepared: sources, what each rule left out with examples, lengths"
    data = commands.add_parser("data", help=text, description=text)
    data.add_argument("--why", metavar="ID|SOURCE:ROW|TEXT", help="what became of a row of the sources")
    data.set_defaults(run=run_data)
    add_plan(commands)
    text = "ask a trained model; without --ask, one problem a line"
    chat = commands.add_parser("chat", help=text, description=text)
    chat.add_argument("model", nargs="?", type=Path, metavar="MODEL_DIR", help="models/grpo if not given")
    chat.add_argument("--ask", metavar="QUESTION", help="one question, for scripts")
    chat.add_argument("--compare", type=Path, metavar="MODEL_DIR", help="a second model beside it")
    chat.set_defaults(run=run_chat)
    text = "what `posttrain sft` or `grpo` runs on this machine: processes, strategy, command, accelerate's config"
    launch = commands.add_parser("launch", help=text, description=text)
    launch.add_argument("stage", nargs="?", choices=("sft", "grpo"), default="grpo")
    launch.add_argument("--show", action="store_true", required=True, help="print it")
    launch.set_defaults(run=run_launch)
    text = "did GRPO gain what params ask for? exit code 3 if not"
    commands.add_parser("gate", help=text, description=text).set_defaults(run=run_gate)
    text = "two evaluations of the same problems: commits, experiments, folders, or two models of one"
    compare = commands.add_parser("compare", help=text, description=text)
    compare.add_argument(
        "evaluations", nargs="+", metavar="WHAT[:MODEL]", help="workspace, a folder or a revision; grpo if no model"
    )
    compare.add_argument("--task", metavar="NAME", help="held_out if not given, or the only one")
    compare.add_argument("--seeds", action="store_true", help="one method with several seeds: mean and spread")
    compare.set_defaults(run=run_compare)
    text = "score completions in a .jsonl or .parquet file with the rewards of params.yaml: a table and histograms"
    rewards = commands.add_parser("rewards", help=text, description=text)
    rewards.add_argument("file", metavar="FILE", help="rows of prompt, completion, gold; or what a stage wrote")
    rewards.add_argument("--tokenizer", metavar="FOLDER", help="counts tokens where the file has no `tokens` column")
    rewards.set_defaults(run=run_rewards)
    text = "what killed runs of sft and grpo go on from, and which params it belongs to"
    commands.add_parser("checkpoints", help=text, description=text).set_defaults(run=run_checkpoints)
    text = "a model, its parents, data, params and code against what their manifests record; exit code 2 if one changed"
    verify = commands.add_parser("verify", help=text, description=text)
    verify.add_argument("folder", nargs="?", type=Path, metavar="FOLDER", help="models/grpo if not given")
    verify.set_defaults(run=run_verify)
    add_push(commands)
    text = "the tree from the data to the evaluation, with the metrics at each node"
    commands.add_parser("lineage", help=text, description=text).set_defaults(run=run_lineage)
    text = "dvc.lock for code whose comments changed, so that no stage runs again; exit code 2 if anything else did"
    commands.add_parser("relock", help=text, description=text).set_defaults(run=run_relock)
    text = "give params.yaml the values of a recipe; without a name, list them"
    recipe = commands.add_parser("recipe", help=text, description=text)
    recipe.add_argument("name", nargs="?", metavar="NAME")
    recipe.set_defaults(run=run_recipe)
    text = 'completion of commands, options and files for a shell: eval "$(posttrain completion bash)"'
    completion = commands.add_parser("completion", help=text, description=text)
    completion.add_argument("shell", choices=("bash", "zsh", "tcsh"))
    completion.set_defaults(run=run_completion)
    return root


class Parser(argparse.ArgumentParser):
    """Says which command was meant."""

    def error(self, message: str) -> NoReturn:
        wrong = re.match(r"argument COMMAND: invalid choice: '(.*?)' \(choose from (.*)\)", message)
        if wrong:
            known = re.findall(r"[\w-]+", wrong[2])
            near = difflib.get_close_matches(wrong[1], known, n=1)
            hint = f"did you mean `{near[0]}`?" if near else f"one of: {', '.join(known)}"
            message = f"no command is called `{wrong[1]}`; {hint}"
        super().error(message)


class Version(argparse.Action):
    """Looked up only when it is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib.metadata import PackageNotFoundError, version

        for package in ("posttrain", "torch", "transformers", "trl", "math-verify", "dvc", "prefect"):
            try:
                print(f"{package} {version(package)}")
            except PackageNotFoundError:
                print(f"{package} is not in this environment")
        parser.exit()


def add_evaluate(stage: argparse.ArgumentParser) -> None:
    stage.add_argument("models", nargs="*", metavar="MODEL", help="folders, or NAME@COMMIT on the Hub; none: the stage")
    stage.add_argument("--tasks", metavar="LIST", help="held_out, FILE.jsonl, gsm8k, gsm8k=FOLDER, math_500, …")
    stage.add_argument("--output", type=Path, metavar="DIR", help="results/evaluations/NAME if not given")
    stage.add_argument("--dtype", choices=["float32", "bfloat16"], help="that of the checkpoint if not given")
    stage.add_argument("--system", metavar="TEXT", help="system message")
    stage.add_argument("--temperature", type=temperature, metavar="T")
    stage.add_argument("--top-p", type=positive(float, 1), metavar="P")
    for name in ("samples", "max-new-tokens", "batch-size", "limit", "seed"):
        stage.add_argument(f"--{name}", type=positive(int), metavar="N")
    stage.set_defaults(run=run_evaluate)


def add_push(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    text = "a model to the Hub with a card that holds its evaluation; exit code 2 if anything changed since it was made"
    push = commands.add_parser("push", help=text, description=text)
    push.add_argument("repo", metavar="OWNER/NAME")
    push.add_argument("--model", choices=("sft", "grpo"), default="grpo")
    push.add_argument("--license", metavar="ID", help="such as apache-2.0; the base model's if not given")
    push.add_argument("--private", action="store_true", help="of a repository that is made now")
    push.add_argument("--dry-run", action="store_true", help="print files, sizes and card; no network")
    push.set_defaults(run=run_push)


def temperature(text: str) -> float:
    return float(text) and float(positive(float)(text))


def add_plan(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    text = "memory, time and GPU-hours of grpo for each strategy, by formula; exit code 2 if nothing fits"
    plan = commands.add_parser("plan", help=text, description=text)
    model = plan.add_mutually_exclusive_group(required=True)
    model.add_argument("--model-size", type=positive(parameters), metavar="PARAMETERS", help="such as 7B, 135M, 7e9")
    model.add_argument("--config", type=Path, metavar="FILE", help="config.json of the model: exact counts")
    plan.add_argument("--gpus", type=positive(int), default=1, metavar="N")
    plan.add_argument("--gpu-memory-gib", type=positive(float), required=True, metavar="GIB", help="of one GPU")
    plan.add_argument("--precision", choices=["mixed", "float32", "bfloat16"], help="mixed if not given")
    plan.add_argument("--full-logits", action="store_true", help="without TRL's chunks of the output layer")
    plan.add_argument("--vllm", choices=["no", "colocate", "server"], help="what generates, instead of params.yaml")
    plan.add_argument("--enable-sleep-mode", action="store_true", help="of a colocated vLLM")
    for name, text in PLAN_SHARES.items():
        plan.add_argument(f"--{name}", type=positive(float, 1), metavar="SHARE", help=text)
    for name, kind, text in PLAN_FLAGS:
        plan.add_argument(f"--{name}", type=positive(kind), metavar="N", help=text)
    plan.set_defaults(run=run_plan)


PLAN_FLAGS: tuple[tuple[str, type[int] | type[float], str], ...] = (
    *((name, int, "instead of params.yaml") for name in ("prompts-per-step", "num-generations", "num-iterations")),
    *((name, int, "instead of params.yaml") for name in ("max-completion-length", "max-steps", "lora-rank")),
    ("prompt-length", int, "tokens; 256 if not given"),
    ("tensor-parallel-size", int, "GPUs that share vLLM's copy of the model; all of a server's"),
    ("reserve-gib", float, "of a GPU, for CUDA and fragmentation"),
    ("tflops", float, "of a GPU in bfloat16; an A100's if not given"),
    ("bandwidth", float, "of a GPU's memory, GB/s"),
    ("link", float, "between GPUs, GB/s in one direction"),
)
PLAN_SHARES = {
    "gpu-memory-utilization": "share of a GPU for vLLM; 0.3 colocated, 0.9 as a server if not given",
    "utilisation": "share of --tflops that training reaches, 0.4 if not given",
    "efficiency": "share of --bandwidth and --link that is reached, 0.5 if not given",
}


def parameters(text: str) -> float:
    """A number of parameters as people write it: 7B, 135M, 7e9."""
    factor = FACTORS.get(text[-1:].upper())
    return float(text[:-1]) * factor if factor else float(text)


FACTORS = {"K": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}


def positive(kind: Callable[[str], int | float], most: float = sys.float_info.max) -> Callable[[str], int | float]:
    def number(text: str) -> int | float:
        value = kind(text)
        if not 0 < value <= most:
            raise ValueError(text)
        return value

    return number


def run_stage(arguments: argparse.Namespace) -> None:
    quiet()
    from posttrain.run_stage import run_stage

    run_stage(arguments.command)


def run_evaluate(arguments: argparse.Namespace) -> None:
    """The stage, unless models are named."""
    options = {key: value for key, value in vars(arguments).items() if key not in ("command", "run", "models")}
    if arguments.models:
        quiet()
        from posttrain.commands.evaluate import run
        from posttrain.processes.signals import sigterm_exits

        with sigterm_exits():
            run(arguments.models, options)
        return
    if given := [f"--{key.replace('_', '-')}" for key, value in options.items() if value is not None]:
        from posttrain.errors import InputError

        raise InputError(
            "posttrain evaluate",
            got=f"{', '.join(given)} without a model: the stage does what params.yaml says",
            wanted="models to evaluate with options, such as models/grpo, or no options",
            do="name them, or change the `evaluate` section of params.yaml",
        )
    run_stage(arguments)


def quiet() -> None:
    """Nothing phones home, libraries' progress bars stay out of ours, and params.yaml decides."""
    from posttrain.launch.environment import leave_out_foreign

    leave_out_foreign()
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    if not Path("/dev/nvidiactl").exists():  # deepspeed, which trl imports, warns about a missing GPU unless told
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("MPLBACKEND", "agg")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")


def run_check(arguments: argparse.Namespace) -> int:
    quiet()
    from posttrain.commands.check.checks import run
    from posttrain.errors import EXIT_WRONG_INPUT
    from posttrain.params.file import load_params
    from posttrain.paths import PARAMS

    return 0 if run(load_params(PARAMS)) else EXIT_WRONG_INPUT


def run_data(arguments: argparse.Namespace) -> None:
    quiet()
    from posttrain.commands import data
    from posttrain.params.file import load_params
    from posttrain.paths import PARAMS

    data.show(load_params(PARAMS)) if arguments.why is None else data.why(arguments.why)


def run_plan(arguments: argparse.Namespace) -> None:
    from posttrain.commands.plan.command import run
    from posttrain.paths import PARAMS

    run(vars(arguments), PARAMS)


def run_launch(arguments: argparse.Namespace) -> None:
    quiet()
    from posttrain.launch.accelerate import show
    from posttrain.params.file import load_params
    from posttrain.paths import PARAMS

    show(arguments.stage, load_params(PARAMS).launch)


def run_chat(arguments: argparse.Namespace) -> None:
    quiet()
    from posttrain.commands.chat import run
    from posttrain.params.file import load_params
    from posttrain.paths import PARAMS

    run(load_params(PARAMS), arguments.model, arguments.compare, arguments.ask)


def run_gate(arguments: argparse.Namespace) -> None:
    from posttrain.evaluation.gate import check_gate
    from posttrain.params.file import load_params
    from posttrain.paths import PARAMS

    check_gate(load_params(PARAMS))


def run_compare(arguments: argparse.Namespace) -> None:
    from posttrain.commands.compare import compare
    from posttrain.commands.seeds import seeds

    if arguments.seeds:
        seeds(arguments.evaluations, arguments.task)
    else:
        compare(arguments.evaluations, arguments.task)


def run_rewards(arguments: argparse.Namespace) -> None:
    quiet()
    from posttrain.commands.rewards import audit
    from posttrain.params.file import load_params
    from posttrain.paths import PARAMS

    audit(Path(arguments.file), load_params(PARAMS), arguments.tokenizer)


def run_checkpoints(arguments: argparse.Namespace) -> None:
    from posttrain.commands.checkpoints import show
    from posttrain.params.file import load_params
    from posttrain.paths import PARAMS

    show(load_params(PARAMS))


def run_verify(arguments: argparse.Namespace) -> int:
    from posttrain.commands.lineage import verify
    from posttrain.errors import EXIT_WRONG_INPUT
    from posttrain.params.file import load_params
    from posttrain.paths import GRPO_MODEL, PARAMS

    return 0 if verify(arguments.folder or GRPO_MODEL, load_params(PARAMS)) else EXIT_WRONG_INPUT


def run_push(arguments: argparse.Namespace) -> None:
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "0")  # an upload may take an hour
    quiet()
    from posttrain.commands.push import push
    from posttrain.params.file import load_params
    from posttrain.paths import GRPO_MODEL, PARAMS, SFT_MODEL

    model = {"sft": SFT_MODEL, "grpo": GRPO_MODEL}[arguments.model]
    push(arguments.repo, model, load_params(PARAMS), arguments.license, arguments.private, arguments.dry_run)


def run_completion(arguments: argparse.Namespace) -> None:
    import shtab

    print(shtab.complete(parser(), arguments.shell))


def run_lineage(arguments: argparse.Namespace) -> None:
    from posttrain.commands.lineage import lineage

    lineage()


def run_relock(arguments: argparse.Namespace) -> None:
    from posttrain.commands.relock import relock

    relock()


def run_recipe(arguments: argparse.Namespace) -> None:
    from posttrain.params.recipes import apply_recipe, list_recipes
    from posttrain.paths import PARAMS

    if arguments.name is None:
        recipes = list_recipes()
        width = max((len(name) for name, _ in recipes), default=0)
        for name, title in recipes:
            print(f"{name:{width}} {title}")
        return
    apply_recipe(arguments.name)
    print(f"recipe | {PARAMS} has the values of {arguments.name} | next: dvc repro")
