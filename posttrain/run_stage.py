"""Runs one stage on params.yaml: checked first, alone in this workspace, in the processes that `launch` asks for.

Reads   params.yaml, the environment of a worker
Run     posttrain prepare|sft|grpo|evaluate|report

The one place of the library that knows the folder stages/.
"""

import gc
import importlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from types import ModuleType

from posttrain.commands.check.checks import preflight
from posttrain.errors import InputError
from posttrain.inputs import link_temporary_workspace
from posttrain.launch import layout
from posttrain.launch.accelerate import by_itself
from posttrain.launch.environment import is_worker
from posttrain.launch.supervisor import Launch, launched, supervise
from posttrain.outputs.checkpoints import only_run
from posttrain.params.file import load_params
from posttrain.params.schema import Params
from posttrain.paths import PARAMS
from posttrain.processes.pool import start_server
from posttrain.processes.signals import sigterm_exits
from posttrain.training.trackers import place_trackers
from posttrain.vllm.server import rollout_server


def run_stage(stage: str) -> None:
    """One stage on params.yaml, which is checked as a whole before anything starts.

    Raises: InputError, RetryError, and what the stage raises
    """
    params = load_params(PARAMS)
    link_temporary_workspace()
    with sigterm_exits():
        if is_worker():
            work(stage, params)
        elif params.launch.machine_rank:
            help_machine_0(stage, params)
        else:
            with begun(stage, params) as launch:
                preflight(params, stage)
                with only_run(stage):
                    work_or_supervise(stage, params, launch)


@contextmanager
def begun(stage: str, params: Params) -> Iterator[Launch | None]:
    """The launcher of the processes that will train, at its imports while the preflight looks at the rest; None if it
    would start them at once, or before a server of vLLM that they have to know."""
    with ExitStack() as stack:
        launch = None
        with suppress(InputError, OSError):  # the preflight tells of them
            if shared(stage, params) and by_itself(found := layout.layout(params.launch)) and not params.grpo.use_vllm:
                launch = stack.enter_context(launched(stage, found))
        yield launch


def work_or_supervise(stage: str, params: Params, launch: Launch | None) -> None:
    """Stages that no processes share run here whatever `launch` asks for, also on a machine without its GPUs."""
    if shared(stage, params) and (odd := layout.hidden_gpus(params.launch)) is not None:
        print(f"{stage} | {odd}", flush=True)
    if not shared(stage, params) or (found := layout.layout(params.launch)).strategy == "single":
        if shared(stage, params) and params.launch.processes == "auto":
            print(f"{stage} | launch.processes auto: {found}", flush=True)
        work(stage, params)
        return
    if launch is not None:
        supervise(stage, launch)
        return
    measure_difficulty(stage, params)
    with rollout_server(params) if stage == "grpo" else nullcontext(), launched(stage, found) as launch:
        supervise(stage, launch)


def measure_difficulty(stage: str, params: Params) -> None:
    """With a server of its own, before the one of the rollouts and the processes that train want the GPUs."""
    if stage == "grpo" and params.grpo.use_vllm and params.grpo.difficulty is not None:
        from posttrain.grpo.attempts import measure_by_server

        start_server()
        measure_by_server(params)


def work(stage: str, params: Params) -> None:
    place_trackers()
    if stage == "grpo":
        start_server()  # what scores imports its own, while the stage imports TRL
    imported(stage).run(params)


def imported(stage: str) -> ModuleType:
    """The module of the stage, with all that it imports."""
    with nothing_collected():
        module = importlib.import_module(f"stages.{stage}")
    require_same_tree(Path(str(module.__file__)))
    return module


@contextmanager
def nothing_collected() -> Iterator[None]:
    """Imports leave a million objects that stay. The collector would look at them again and again: a fifth of the time
    that TRL takes to import, and some of every step."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def require_same_tree(file: Path) -> None:
    """Raises: InputError if the stage comes from another tree than the library, which DVC would not notice."""
    root = Path(__file__).parents[1]
    if not file.is_relative_to(root):
        raise InputError(
            str(file),
            got="a stage of another folder than the library that runs it",
            wanted=f"the one in {root}",
            do="run `python -m posttrain` in the project's root folder, without PYTHONPATH",
        )


def shared(stage: str, params: Params) -> bool:
    """Whether several processes share the stage. A model that is not trained is the work of one."""
    return stage in layout.SHARED and not (stage == "sft" and params.sft is None)


def help_machine_0(stage: str, params: Params) -> None:
    """Run this machine's processes of a stage that several can share; machine 0 checks, locks and publishes."""
    launch = params.launch
    if stage in layout.SHARED and not shared(stage, params):
        print(f"{stage} | nothing to train: machine 0 does it alone")
        return
    if stage not in layout.SHARED:
        raise InputError(
            "launch.machine_rank",
            got=f"{launch.machine_rank}, and the stage {stage}",
            wanted=f"machine 0 for it; several share {' and '.join(layout.SHARED)}",
            do=f"run `posttrain {stage}` on machine 0 alone",
        )
    with launched(stage, layout.layout(launch)) as launcher:
        supervise(stage, launcher)
