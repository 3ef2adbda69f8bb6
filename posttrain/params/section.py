"""A section of params.yaml: what all of them have in common."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """Keys that belong together: none besides, no infinite number, never changed once they are read.

    Strict: true is no number, and "1" is none either.
    """

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        protected_namespaces=(),
    )
