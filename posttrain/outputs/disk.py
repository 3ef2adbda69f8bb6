"""A disk that takes no more, told to a person."""

import errno
import os
import shutil
from pathlib import Path

from posttrain.errors import InputError


def readable(size: int) -> str:
    value, units = float(size), ["B", "KiB", "MiB", "GiB"]
    while value >= 1024 and len(units) > 1:
        value, units = value / 1024, units[1:]
    return f"{value:.3g} {units[0]}"


DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}


def disk_error(error: OSError, stage: str) -> InputError | None:
    """What to tell a person whose disk is full, read-only or broken; None for any other fault."""
    if error.errno not in DISK_ERRORS:
        return None
    return InputError(
        error.filename or f"{Path.cwd()}",
        got=f"{os.strerror(error.errno)}; {readable(shutil.disk_usage('.').free)} are free here",
        wanted="a folder that can be written, with room",
        do=f"make room or mend the rights, then run `posttrain {stage}` again; what is published or saved is intact",
    )
