"""A disk that takes no more, told to a person."""

import errno
import os
import re
import shutil
from pathlib import Path

from posttrain.errors import InputError
from posttrain.outputs.manifest import SUFFIX, beside
from posttrain.paths import UNPUBLISHED


def readable(size: int) -> str:
    value, units = float(size), ["B", "KiB", "MiB", "GiB"]
    while value >= 1024 and len(units) > 1:
        value, units = value / 1024, units[1:]
    return f"{value:.3g} {units[0]}"


DISK_ERRORS = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO),
    *(errno.EXDEV, errno.EBUSY, errno.ESTALE),  # of mounts that came, went or stand where an output belongs
}


def disk_error(error: OSError, stage: str) -> InputError | None:
    """What to tell a person whose disk is full, read-only or broken; None for any other fault."""
    swept = error.errno == errno.ENOENT and is_scratch(str(error.filename))
    if error.errno not in DISK_ERRORS and not swept:
        return None
    return InputError(
        error.filename or f"{Path.cwd()}",
        got="removed while the stage worked in it" if swept else f"{os.strerror(error.errno or 0)}; {free_at(error)}",
        wanted="a folder that can be written, with room",
        do=f"make room or mend the rights, then run `posttrain {stage}` again; what is published or saved is intact",
    )


def is_scratch(name: str) -> bool:
    """Whether a path is of what stages keep for themselves, which a person can remove at any time."""
    return UNPUBLISHED.parent.name in Path(name).parts or any(part.endswith(SUFFIX) for part in Path(name).parts)


def free_at(error: OSError) -> str:
    """What is free on the file system that refused."""
    return f"{readable(shutil.disk_usage(nearest(Path(error.filename or '.'))).free)} are free there"


def nearest(folder: Path) -> Path:
    """The folder, or the lowest above it that is there."""
    place = folder.resolve()
    return next(path for path in (place, *place.parents) if path.exists())


def unwritable(folder: Path) -> str | None:
    """What the system says to a file in a new folder in there; None if it takes both."""
    try:
        with beside(folder / "room") as room, (room / "file").open("wb") as file:
            file.write(bytes(2**16))
            file.flush()
            os.fsync(file.fileno())  # a quota of a server speaks only now
    except OSError as error:
        return os.strerror(error.errno or 0)
    return None


def mounted(folder: Path) -> bool:
    """Whether a mount stands at the folder or below, so that no rename can replace it; a bind mount too."""
    place, table = folder.resolve(), Path("/proc/self/mountinfo")
    if not table.is_file():
        return place.is_mount()
    points = (line.split()[4] for line in table.read_text(encoding="utf-8", errors="replace").splitlines())
    return any(Path(plain(point)).is_relative_to(place) for point in points)


def plain(point: str) -> str:
    """A path of the kernel's table, in which white space is written as octal numbers."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), point)
