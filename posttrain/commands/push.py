"""A model to the Hub, in one commit: its weights, its tokenizer, and a card with what the evaluation found.

Reads   models/grpo or models/sft, whatever `posttrain verify` reads, results/evaluate; HF_TOKEN or `hf auth login`
Run     posttrain push OWNER/NAME [--model grpo] [--license apache-2.0] [--private] [--dry-run]

Only files that the model's manifest lists, and no other kind than a model has: no optimizer states, no logs.
"""

import re
import sys
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING

from posttrain.commands.hub_card import evaluation, hub_card
from posttrain.commands.lineage import CHANGED, MISSING, walk
from posttrain.errors import InputError
from posttrain.outputs.disk import readable
from posttrain.outputs.manifest import MANIFEST, require_complete
from posttrain.params.schema import Params
from posttrain.paths import EVALUATE_RESULTS
from posttrain.training.card import CARD

if TYPE_CHECKING:
    from huggingface_hub import HfApi

PARTS = ("*.json", "*.safetensors", "*.jinja", "*.txt", "*.model")
"""Files that a model is made of, beside its card."""
WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "*.bin", "*.bin.index.json")
SECRET = re.compile(rb"\b(?:hf_[A-Za-z0-9]{30,}|sk-[A-Za-z0-9_-]{30,}|gh[pousr]_[A-Za-z0-9]{30,}|AKIA[A-Z0-9]{16})\b")
"""Tokens of the Hub, of OpenAI and its like, of GitHub and AWS."""
LARGE = 64 * 2**20
"""Bytes from which a file is weights and no text that somebody typed a token into."""
NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]{0,95}", re.ASCII)


def push(repo: str, model: Path, params: Params, licence: str | None, private: bool, dry_run: bool) -> None:
    """Upload the model, or with `dry_run` print what would go.

    Raises: InputError if anything changed since it was made, would give a secret away, or the Hub does not take it
    """
    require_name(repo)
    require_complete(model, model.name)
    require_unchanged(model, params)
    found = evaluation(model)
    card = str(hub_card(model, repo, licence, found)).encode()
    files = wanted(model)
    require_no_secrets(files, card)
    shown(repo, files, card, private)
    if found is None:
        print(f"push | the card says nothing of an evaluation: {EVALUATE_RESULTS} has none of this {model}")
    if dry_run:
        print(f"\n{card.decode()}\npush | nothing was sent (--dry-run)")
    else:
        print(f"push | {upload(repo, files, card, private)}")


def require_name(repo: str) -> None:
    if not NAME.fullmatch(repo) or "--" in repo or ".." in repo:
        raise InputError(
            "posttrain push", got=repo, wanted="OWNER/NAME of a repository", do="posttrain push me/my-model"
        )


def require_unchanged(model: Path, params: Params) -> None:
    faults = [check for check in walk(model, params, {}) if check.verdict in (CHANGED, MISSING)]
    if faults:
        first = f"{faults[0].what}, {faults[0].detail}" if faults[0].detail else faults[0].what
        raise InputError(
            str(model),
            got=f"{len(faults)} things that changed since it was made: {first}",
            wanted="a model that its manifest describes",
            do=f"`posttrain verify {model}` lists them; restore them, or `dvc repro`",
        )


def wanted(model: Path) -> list[Path]:
    """The files of the model that go as they are, its manifest among them; the card is made anew."""
    listed = require_complete(model, model.name)["files"]
    named = [name for name in listed if any(fnmatch(name, part) for part in PARTS)]
    return [model / name for name in sorted([*named, MANIFEST])]


def require_no_secrets(files: list[Path], card: bytes) -> None:
    texts = {CARD: card} | {str(path): path.read_bytes() for path in files if path.stat().st_size < LARGE}
    for name, text in texts.items():
        if SECRET.search(text):
            raise InputError(
                name,
                got="what looks like an access token",
                wanted="nothing secret in what everybody may read",
                do="take it out of params.yaml, where no token belongs, and run the stages again; revoke the token",
            )


def shown(repo: str, files: list[Path], card: bytes, private: bool) -> None:
    sizes = {path.name: path.stat().st_size for path in files} | {CARD: len(card)}
    print(f"push | {repo}, {'private' if private else 'public'}: {len(sizes)} files, {readable(sum(sizes.values()))}")
    for name, size in sorted(sizes.items()):
        print(f"  {readable(size):>10}  {name}")


def upload(repo: str, files: list[Path], card: bytes, private: bool) -> str:
    """One commit with all files, in which weights of an earlier model go; its address.

    Raises: InputError with what the Hub said
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, OfflineModeIsEnabled

    added = [CommitOperationAdd(path.name, path) for path in files] + [CommitOperationAdd(CARD, card)]
    api = HfApi()
    try:
        api.create_repo(repo, private=private, exist_ok=True)
        removed = [CommitOperationDelete(name) for name in left_over(api, repo, files)]
        return str(api.create_commit(repo, [*added, *removed], commit_message="posttrain push").commit_url)
    except LocalTokenNotFoundError:
        raise refused(
            repo, "no access token", "make one that may write, then `hf auth login`, or set HF_TOKEN"
        ) from None
    except HFValidationError as error:
        raise refused(repo, str(error), "mend the name") from None
    except HfHubHTTPError as error:
        do = "look at the owner and at the token: `hf auth whoami`; it has to write"
        raise refused(repo, answer(error), do) from None
    except (RuntimeError, ValueError) as error:  # weights that did not arrive, a card that the Hub cannot read
        raise refused(repo, f"{error} {answer(error.__cause__)}".strip(), "mend it, and push again") from None
    except (*transport_errors(), OSError, OfflineModeIsEnabled) as error:
        raise refused(
            repo, f"the Hub could not be reached: {error}", "look at the network, HF_ENDPOINT and HF_HUB_OFFLINE"
        ) from None


def answer(error: BaseException | None) -> str:
    """What the Hub said, in a line."""
    return getattr(error, "server_message", None) or str(error or "").strip().partition("\n")[0]


def transport_errors() -> tuple[type[Exception], ...]:
    """Of the client that huggingface_hub has loaded: httpx2 from its version 2 on."""
    return tuple(sys.modules[name].HTTPError for name in ("httpx", "httpx2") if name in sys.modules)


def left_over(api: "HfApi", repo: str, files: list[Path]) -> list[str]:
    """Weights in the repository that are not of this model, which a loader would take for parts of it."""
    ours = {path.name for path in files}
    there = [name for name in api.list_repo_files(repo) if any(fnmatch(name, kind) for kind in WEIGHTS)]
    return [name for name in there if "/" not in name and name not in ours]


def refused(repo: str, got: str, do: str) -> InputError:
    return InputError(f"the Hub: {repo}", got=got, wanted="a repository that this token may write to", do=do)
