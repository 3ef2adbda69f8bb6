"""A split of a dataset on the Hub, at a commit."""

import os
from typing import TYPE_CHECKING
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from posttrain.data.readers import refused
from posttrain.errors import InputError
from posttrain.params.schema import Source

if TYPE_CHECKING:
    from datasets import Dataset

LOOK_S = 10
"""Seconds for the Hub's first answer."""


def load_hub(source: Source, split: str) -> "Dataset":
    """The split, memory mapped from the Hub's cache.

    Raises: InputError without a commit, without a network, or for a name, configuration or split that is not there
    """
    if source.revision is None:
        raise InputError(
            "params.yaml: prepare.revision",
            got="null",
            wanted=f"the commit of {source.dataset} to use; a branch moves",
            do="copy it from the dataset's `Files and versions` page",
        )
    from datasets import load_dataset
    from datasets.exceptions import DatasetNotFoundError
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    _require_the_hub(source)
    try:
        return load_dataset(source.dataset, source.config, revision=source.revision, split=split)
    except (DatasetNotFoundError, HfHubHTTPError, OfflineModeIsEnabled, ConnectionError, ValueError) as error:
        raise _refused(source, str(error), "check the name, the configuration, the split and the revision") from None


def _require_the_hub(source: Source) -> None:
    """One question before the library asks many times. Offline by choice it looks into its cache.

    Raises: InputError
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE or os.environ.get("HF_DATASETS_OFFLINE") == "1":
        return
    try:
        urlopen(Request(constants.ENDPOINT, method="HEAD"), timeout=LOOK_S).close()
    except HTTPError:
        return  # it is there; what it says of the dataset the library tells
    except OSError as error:
        do = (
            "check the network; or set HF_HUB_OFFLINE=1 to use what was downloaded before; or clone the repository "
            "elsewhere and name the clone, in data/source"
        )
        raise _refused(source, f"the Hub cannot be reached: {error}", do) from None


def _refused(source: Source, got: str, do: str) -> InputError:
    wanted = "a file or folder in data/source, or a Hub dataset that can be reached"
    return refused(f"params.yaml: prepare.dataset: {source.dataset}", " ".join(got.split())[:300], wanted, do)
