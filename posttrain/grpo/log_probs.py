"""Log-probabilities of completions without the work that changes none: TRL's numbers, and TRL's loss from them.

A prompt is computed once for its group; nothing is computed for columns and rows that are padding alone; rows whose
gradient is exactly 0 get none, and where their entropy alone is wanted, one completion stands for the others of its
prompt.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F

from posttrain.grpo.shared_prompt import Prompts

Scores = tuple[torch.Tensor, torch.Tensor | None]
"""Log-probabilities and, of models whose head says them, entropies: (N, C), and 0 where there is no token."""


class LogProbs:
    """Scores completions by a model's fused LM head.

    `share` computes each prompt once, for models with `share_prompts`. `skip` lets rows without an advantage go without
    a gradient: exact where it is all that their gradient is a multiple of.
    """

    def __init__(self, *, share: bool, skip: bool) -> None:
        self.share, self.skip = share, skip
        self.taught: torch.Tensor | None = None
        """The rows that have a gradient; None for all."""
        self.compared = True

    @contextmanager
    def loss_of(self, advantages: torch.Tensor, *, compared: bool) -> Iterator[None]:
        """Policy and loss of a forward pass with these advantages; `compared` with older log-probabilities.

        Where they are not, a policy's ratio to itself is all that the loss takes of rows without an advantage. Their
        log-probabilities are 0 then, and their entropies are estimated.
        """
        self.taught, self.compared = (advantages != 0) if self.skip else None, compared
        try:
            yield
        finally:
            self.taught, self.compared = None, True

    def __call__(
        self,
        model: Any,
        plain: Any,
        ids: torch.Tensor,
        mask: torch.Tensor,
        keep: int,
        size: int | None,
        autocast: AbstractContextManager[Any] | None = None,
    ) -> Scores:
        """Of the last `keep` of each row's tokens, `size` rows a pass; `plain` is the model as no strategy wraps it.

        Rows without a gradient go to `plain`, since processes have unequal numbers of them.
        """
        still, taught = self.parts(torch.arange(len(ids), device=ids.device))
        computed, like = still, still
        if len(still) and not self.compared:
            like = stand_ins(ids[:, :-keep], mask, keep, still)
            computed = still[torch.isin(still, like)]
        with autocast or nullcontext():
            found = [self.score(model, ids, mask, keep, rows) for rows in taught.split(size or len(ids))]
            if len(computed):
                with torch.no_grad():
                    found.append(self.score(plain, ids, mask, keep, computed))
        logps, entropies = zip(*found, strict=True)
        if entropies[0] is None:
            return sum_of(logps), None
        entropy = sum_of(entropies)
        return sum_of(logps), entropy if computed is like else with_means(entropy, mask[:, -keep:], still, like)

    def parts(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows without and with a gradient. One at least keeps its gradient of zeros: other processes wait for it."""
        if self.taught is None or not torch.is_grad_enabled():
            return rows[:0], rows
        taught = self.taught.clone()
        taught[0] |= not bool(taught.any())
        return rows[~taught], rows[taught]

    def score(self, model: Any, ids: torch.Tensor, mask: torch.Tensor, keep: int, rows: torch.Tensor) -> Scores:
        """Of some rows, among zeros for the others."""
        number, width = ids.shape
        own = rows[mask[rows, -keep:].any(dim=1)]  # without a token there is nothing to know of a completion
        rows = own if len(own) else rows[:1]
        ids, mask = ids[rows], mask[rows]
        columns = mask.any(dim=0).nonzero().flatten()
        end = max(int(columns[-1]) + 1, width - keep + 1) if len(columns) else width - keep + 1
        if self.share:
            start = min(int(columns[0]), width - keep - 1) if len(columns) else 0
            found = after_shared_prompts(model, ids[:, :end], mask[:, :end], width - keep, start)
        else:
            found = after_own_prompts(model, ids[:, :end], mask[:, :end], width - keep)
        return tuple(None if one is None else spread(one, rows, number, keep) for one in found)  # type: ignore[return-value]


def after_own_prompts(model: Any, ids: torch.Tensor, mask: torch.Tensor, prompt: int) -> Scores:
    labels = ids.masked_fill(mask == 0, -100)
    labels[:, :prompt] = -100
    out = model(input_ids=ids, attention_mask=mask, labels=labels, fused_lm_head=True)
    return out.log_probs[:, prompt - 1 :], None if out.entropy is None else out.entropy[:, prompt - 1 :]


def after_shared_prompts(model: Any, ids: torch.Tensor, mask: torch.Tensor, prompt: int, start: int) -> Scores:
    """`start` is the first column in which a prompt has a token."""
    labels = ids[:, prompt:].masked_fill(mask[:, prompt:] == 0, -100)
    fed = max(prompt + 1, ids.shape[1] - 1)  # what comes after the last token is nobody's
    out = model(
        input_ids=ids[:, prompt:fed],
        attention_mask=mask[:, start:fed],
        shift_labels=F.pad(labels, (0, fed + 1 - ids.shape[1]), value=-100),
        fused_lm_head=True,
        prompts=Prompts.of(ids[:, start:prompt], mask[:, start:prompt], start),
    )
    width = labels.shape[1]
    return out.log_probs[:, :width], None if out.entropy is None else out.entropy[:, :width]


def stand_ins(prompts: torch.Tensor, mask: torch.Tensor, keep: int, still: torch.Tensor) -> torch.Tensor:
    """For each row that has no gradient a row of the same prompt: with tokens, and a gradient if there is one."""
    numbers = prompts.masked_fill(mask[:, :-keep] == 0, -1).unique(dim=0, return_inverse=True)[1]
    count = len(mask)
    order = torch.arange(count, device=mask.device) + 2 * count * ~mask[:, -keep:].any(dim=1)
    order[still] += count
    first = order.new_full((count,), 4 * count).scatter_reduce(0, numbers, order, "amin")
    return first[numbers[still]] % count


def with_means(values: torch.Tensor, mask: torch.Tensor, rows: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Each token of the rows has the mean over the tokens of the row that it is like."""
    mean = (values * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)
    return values.index_copy(0, rows, mean[like, None] * mask[rows])


def spread(values: torch.Tensor, rows: torch.Tensor, number: int, keep: int) -> torch.Tensor:
    """Values of some rows and their first columns, among zeros."""
    wide = F.pad(values, (0, keep - values.shape[1]))
    return wide.new_zeros(number, keep).index_copy(0, rows, wide)


def sum_of(parts: Any) -> torch.Tensor:
    """Parts that have values in rows of their own."""
    return torch.stack(list(parts)).sum(dim=0) if len(parts) > 1 else parts[0]
