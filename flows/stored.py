"""Where the outs that dvc.lock tells of are: in this machine's cache, in the DVC remote, in both or nowhere.

Reads   dvc.yaml, dvc.lock, DVC's cache; asks the remote for one name each
Run     where("sft", Path.cwd())

Through DVC's library: `dvc status --cloud` calls a folder that is in neither unchanged, and says so in a warning alone.
"""

from dataclasses import dataclass
from pathlib import Path

from dvc.exceptions import DvcException
from dvc.repo import Repo

from posttrain.errors import InputError
from posttrain.graph import small_files
from posttrain.paths import GRAPH


@dataclass(frozen=True)
class Stored:
    here: bool
    remote: bool


def where(stage: str, root: Path) -> Stored:
    """Where all of a stage's outs are. Those that DVC does not cache have to lie in the folder.

    Raises: InputError if there is no remote, or it does not answer
    """
    small = all((root / path).is_file() for path in small_files(root, [stage]))
    with Repo(str(root)) as repo:
        outs = [out for out in repo.stage.load_one(str(root / GRAPH), stage).outs if out.use_cache]
        try:
            # Of a folder, its listing, which `dvc push` sends after the files.
            remote = repo.cloud.get_remote_odb(None, "status")
            there = small and all(out.hash_info and remote.exists(out.hash_info.value) for out in outs)
        except (DvcException, OSError) as error:
            raise InputError(
                f"the DVC remote of {root}",
                got=str(error),
                wanted="one that this machine reaches",
                do="`dvc remote list` here; `dvc remote add --local --default shared URL` names one",
            ) from error
        return Stored(small and not any(out.changed_cache() for out in outs), there)
