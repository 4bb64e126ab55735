"""Dropped negatives against a mask made by hand: loss, gradient and count, in blocks, by share and by margin."""

from functools import partial

import pytest
import torch

from reasonir.train.objectives import Counted
from reasonir.train.objectives.false_negatives import DropAbove, without_false_negatives
from reasonir.train.objectives.infonce import info_nce
from tests.reference.false_negatives import above_the_limit
from tests.reference.infonce import info_nce as slow_info_nce

LOSS = partial(info_nce, temperature=0.05)
RULES = [DropAbove(share=0.9), DropAbove(share=1.1), DropAbove(margin=0.1), DropAbove(margin=-0.05), DropAbove()]


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Twelve queries near their positives, in float64; some documents are ignored anyway."""
    torch.manual_seed(5)
    document = torch.nn.functional.normalize(torch.randn(31, 6, dtype=torch.float64), dim=1)
    positives = torch.randint(0, 31, (12,))
    query = torch.nn.functional.normalize(document[positives] + 0.6 * torch.randn(12, 6, dtype=torch.float64), dim=1)
    ignored = torch.rand(12, 31) < 0.2
    ignored[torch.arange(12), positives] = False
    return query, document, positives, ignored


@pytest.mark.parametrize("drop", RULES, ids=str)
@pytest.mark.parametrize("block_scores", [1, 40, 10**6])
def test_equals_a_mask_made_by_hand(batch, drop: DropAbove, block_scores: int) -> None:
    query, document, positives, ignored = batch
    lists = [one.tolist() for one in batch]
    marks = torch.tensor(above_the_limit(*lists, drop.share, drop.margin))
    assert 0 < marks.sum() < (~ignored).sum() / 2
    # 1 loss and count
    given = [one.clone().requires_grad_() for one in (query, document)]
    found = without_false_negatives(*given, positives, ignored.clone(), LOSS, drop, block_scores)
    slow = slow_info_nce(*lists[:3], (ignored | marks).tolist(), 0.05)
    assert torch.allclose(found.loss_B, torch.tensor(slow, dtype=torch.float64), atol=1e-12, rtol=0)
    assert found.counts.keys() == {"dropped_negatives"} and found.counts["dropped_negatives"] == marks.sum()
    assert not torch.allclose(found.loss_B, LOSS(query, document, positives, ignored))
    # 2 the gradient of a constant mask: none through the scores that decide
    sides = [one.clone().requires_grad_() for one in (query, document)]
    scores = (sides[0] @ sides[1].T / 0.05).masked_fill(ignored | marks, float("-inf"))
    plain = torch.nn.functional.cross_entropy(scores, positives, reduction="sum")
    for ours, theirs in zip(
        torch.autograd.grad(found.loss_B.sum(), given), torch.autograd.grad(plain, sides), strict=True
    ):
        assert torch.allclose(ours, theirs, atol=1e-11, rtol=0)


def test_a_copy_of_the_positive_ties_and_stays_whatever_rounding_does() -> None:
    document = torch.nn.functional.normalize(torch.randn(32, 384), dim=1).repeat(2, 1)  # equal tokens, another text
    query, positives = torch.nn.functional.normalize(torch.randn(32, 384), dim=1), torch.arange(32)
    ignored = torch.ones(32, 64, dtype=torch.bool)  # all but each query's positive and its copy
    ignored[positives, positives] = ignored[positives, positives + 32] = False
    for rows in (slice(0, 32), slice(3, 8), slice(31, 32)):  # the queries of a rank: other shapes round otherwise
        for margin, dropped in ((0.0, 0), (-1e-3, len(query[rows]))):
            part = (query[rows], document, positives[rows], ignored[rows].clone())
            found = without_false_negatives(*part, LOSS, DropAbove(margin=margin))
            assert found.counts["dropped_negatives"] == dropped


def test_an_objective_with_counts_of_its_own_keeps_them(batch) -> None:
    def counting(query_BD, document_ND, positive_index_B, ignore_BN):
        return Counted(LOSS(query_BD, document_ND, positive_index_B, ignore_BN), {"negatives": (~ignore_BN).sum()})

    found = without_false_negatives(*batch, objective=counting, drop=DropAbove(share=0.9))
    assert list(found.counts) == ["negatives", "dropped_negatives"]
    # The mask belongs to the step, which makes it anew: what was dropped is marked in it.
    assert found.counts["negatives"] == (~batch[3]).sum()


def test_a_query_that_loses_all_negatives_has_no_loss_and_no_gradient() -> None:
    query = torch.tensor([[1.0, 0.0]], requires_grad=True)
    document = torch.tensor([[0.8, 0.6], [0.9, 0.436], [1.0, 0.0]], requires_grad=True)
    ignored = torch.zeros(1, 3, dtype=torch.bool)
    found = without_false_negatives(query, document, torch.tensor([0]), ignored, LOSS, DropAbove())
    assert found.loss_B.item() == 0 and found.counts["dropped_negatives"] == 2
    assert all(not gradient.any() for gradient in torch.autograd.grad(found.loss_B.sum(), (query, document)))


def test_autocast_lowers_no_score_that_decides() -> None:
    query, document = (torch.nn.functional.normalize(torch.randn(n, 16), dim=1) for n in (64, 512))
    found = []
    for low in (False, True):
        ignored = torch.zeros(64, 512, dtype=torch.bool)
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            without_false_negatives(query, document, torch.arange(64), ignored, LOSS, DropAbove())
        found.append(ignored)
    assert torch.equal(*found) and 0.1 < found[0].float().mean() < 0.9


def test_memory_does_not_grow_with_the_documents() -> None:
    def largest_tensor(documents: int) -> int:
        query = torch.nn.functional.normalize(torch.randn(64, 4), dim=1).requires_grad_()
        document = torch.nn.functional.normalize(torch.randn(documents, 4), dim=1).requires_grad_()
        ignored = torch.zeros(64, documents, dtype=torch.bool)
        loss = partial(info_nce, temperature=0.1, block_scores=64 * 1_024)
        with torch.profiler.profile(profile_memory=True, acc_events=True) as profile:
            found = without_false_negatives(
                query, document, torch.arange(64), ignored, loss, DropAbove(margin=0.3), block_scores=64 * 1_024
            )
            found.loss_B.sum().backward()
        assert found.counts["dropped_negatives"] > documents
        sizes = [event.cpu_memory_usage for event in profile.events()]
        return max(sizes) - 16 * documents  # beyond the gradient of the documents

    assert largest_tensor(8_192) <= largest_tensor(2_048) <= 2 * 64 * 1_024 * 4
