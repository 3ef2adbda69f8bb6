"""Completions of one prompt side by side in a row, so that little is computed for the padding after short ones."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

NOBODY = -1
"""In the place of a completion's number, where a row has no token."""


@dataclass(frozen=True)
class Packed:
    """N completions in B rows of W tokens; those of a row have the same prompt."""

    of_row_B: torch.Tensor
    """The prompt of each row."""
    places_NC: torch.Tensor
    """Where each token is, rows counted one after the other; the first place where there is none."""
    whose_BW: torch.Tensor
    """The completion that each place belongs to, or NOBODY."""
    columns_BW: torch.Tensor
    """The place of a token in its completion."""

    def rows(self, ids_NC: torch.Tensor, mask_NC: torch.Tensor) -> torch.Tensor:
        """Tokens of completions in their rows (B, W), zeros elsewhere."""
        flat = ids_NC.new_zeros(self.whose_BW.numel())
        flat[self.places_NC[mask_NC]] = ids_NC[mask_NC]
        return flat.view_as(self.whose_BW)

    def mask(self, prompts_UP: torch.Tensor) -> torch.Tensor:
        """What each place attends to, (B, 1, W, P + W): its prompt, and its completion up to itself."""
        whose, columns = self.whose_BW, self.columns_BW
        own = (whose[:, :, None] == whose[:, None]) & (columns[:, :, None] >= columns[:, None])
        prompt = prompts_UP.bool()[self.of_row_B][:, None].expand(-1, whose.shape[1], -1)
        return torch.cat([prompt, own], dim=2)[:, None]

    def unpack(self, hidden_BWH: torch.Tensor) -> torch.Tensor:
        """By completion (N, C, H); where a completion has no token, what some other place has."""
        return hidden_BWH.flatten(0, 1)[self.places_NC]


def pack(mask_NC: torch.Tensor, of_row_N: torch.Tensor) -> Packed | None:
    """Completions, which their mask shows, in as few rows as they fit; None if that is no fewer than they have.

    `of_row_N` is the prompt of each. A mask with a hole, or without a token, is left as it is.
    """
    lengths_N = mask_NC.sum(dim=1)
    columns_C = torch.arange(mask_NC.shape[1], device=mask_NC.device)
    lengths = lengths_N.tolist()
    if not any(lengths) or not torch.equal(mask_NC, columns_C < lengths_N[:, None]):
        return None
    rows = fitted(lengths, of_row_N.tolist(), max(lengths))
    if len(rows) == len(lengths):
        return None
    width = max(sum(lengths[number] for number in row) for row in rows)
    whose = torch.full((len(rows), width), NOBODY)
    columns = torch.zeros((len(rows), width), dtype=torch.long)
    places = torch.zeros(mask_NC.shape, dtype=torch.long)
    for place, row in enumerate(rows):
        start = 0
        for number in row:
            end = start + lengths[number]
            whose[place, start:end] = number
            columns[place, start:end] = torch.arange(end - start)
            places[number, : end - start] = torch.arange(start, end) + place * width
            start = end
    of_row = of_row_N[torch.tensor([row[0] for row in rows], device=of_row_N.device)]
    return Packed(of_row, *(value.to(mask_NC.device) for value in (places, whose, columns)))


def fitted(lengths: Sequence[int], prompts: Sequence[int], width: int) -> list[list[int]]:
    """Numbers of completions, row by row, none longer than `width` and each of one prompt: the longest first, into the
    first row that has room."""
    rows: list[list[int]] = []
    room: list[int] = []
    for number in sorted(range(len(lengths)), key=lambda number: (prompts[number], -lengths[number])):
        for place, row in enumerate(rows):
            if prompts[row[0]] == prompts[number] and room[place] >= lengths[number]:
                break
        else:
            place = len(rows)
            rows.append([])
            room.append(width)
        rows[place].append(number)
        room[place] -= lengths[number]
    return rows
