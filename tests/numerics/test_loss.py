import pytest
import torch

from reasonir.train.objectives.infonce import info_nce
from tests.reference.infonce import info_nce as slow_info_nce


def test_equals_the_plain_loops_with_ignored_documents():
    query, document = (torch.nn.functional.normalize(torch.randn(n, 8, dtype=torch.float64), dim=1) for n in (5, 9))
    positives = torch.tensor([0, 2, 4, 6, 2])
    ignored = torch.rand(5, 9) < 0.3
    ignored[torch.arange(5), positives] = False
    assert ignored.any()
    ours = info_nce(query, document, positives, ignored, 0.05)
    slow = slow_info_nce(query.tolist(), document.tolist(), positives.tolist(), ignored.tolist(), 0.05)
    assert torch.allclose(ours, torch.tensor(slow, dtype=torch.float64), atol=1e-12, rtol=0)


def test_ignoring_a_document_equals_its_absence():
    query, document = torch.randn(2, 4, dtype=torch.float64), torch.randn(4, 4, dtype=torch.float64)
    ignored = torch.zeros(2, 4, dtype=torch.bool)
    ignored[:, 3] = True
    positives = torch.tensor([0, 1])
    with_it = info_nce(query, document, positives, ignored, 1.0)
    without = info_nce(query, document[:3], positives, ignored[:, :3], 1.0)
    assert torch.equal(with_it, without)
    assert not torch.allclose(with_it, info_nce(query, document, positives, torch.zeros_like(ignored), 1.0))


def test_gradient_reaches_both_sides():
    query, document = (torch.randn(3, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    ignored = torch.zeros(3, 3, dtype=torch.bool)
    info_nce(query, document, torch.arange(3), ignored, 0.1).sum().backward()
    assert query.grad.abs().min() > 0
    assert document.grad.abs().min() > 0


@pytest.mark.parametrize("block_scores", [1, 5, 11, 20, 45, 10**6])
def test_blocks_change_neither_loss_nor_gradient(block_scores: int) -> None:
    sides = [torch.nn.functional.normalize(torch.randn(n, 8, dtype=torch.float64), dim=1) for n in (5, 9)]
    positives, weights = torch.tensor([0, 2, 4, 8, 2]), torch.tensor([1.0, 0.0, 2.0, 0.5, 1.0])
    ignored = torch.rand(5, 9) < 0.3
    ignored[:, 5:7] = True  # a whole block without a document that counts
    ignored[torch.arange(5), positives] = False
    query, document = (side.clone().requires_grad_() for side in sides)
    scores = (query @ document.T / 0.05).masked_fill(ignored, float("-inf"))
    plain = torch.nn.functional.cross_entropy(scores, positives, reduction="none")
    expected = torch.autograd.grad((plain * weights).sum(), (query, document))
    ours = info_nce(query, document, positives, ignored, 0.05, block_scores)
    found = torch.autograd.grad((ours * weights).sum(), (query, document))
    assert torch.allclose(ours, plain, atol=1e-12, rtol=0)
    for ours_, theirs in zip(found, expected, strict=True):
        assert torch.allclose(ours_, theirs, atol=1e-11, rtol=0)


def test_memory_does_not_grow_with_the_documents() -> None:
    def largest_tensor(documents: int) -> int:
        query = torch.nn.functional.normalize(torch.randn(64, 4), dim=1).requires_grad_()
        document = torch.nn.functional.normalize(torch.randn(documents, 4), dim=1).requires_grad_()
        ignored = torch.zeros(64, documents, dtype=torch.bool)
        with torch.profiler.profile(profile_memory=True, acc_events=True) as profile:
            info_nce(query, document, torch.arange(64), ignored, 0.1, block_scores=64 * 256).sum().backward()
        sizes = [event.cpu_memory_usage for event in profile.events()]
        return max(sizes) - 16 * documents  # beyond the gradient of the documents

    assert largest_tensor(16_384) <= largest_tensor(1_024) <= 2 * 64 * 256 * 4


def test_refuses_a_temperature_of_zero():
    with pytest.raises(ValueError, match="temperature"):
        info_nce(torch.ones(1, 2), torch.ones(1, 2), torch.zeros(1, dtype=torch.long), torch.zeros(1, 1).bool(), 0.0)
