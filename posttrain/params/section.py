"""A section of params.yaml: what all of them have in common."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """Keys that belong together: none besides, no infinite number, never changed once they are read."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True, protected_namespaces=()
    )
