import torch

from reasonir.model.pooling import Pooling, pool
from tests.reference.pooling import pool as slow_pool


def test_equals_the_plain_loops_also_without_pooled_tokens():
    lengths, prefixes = [3, 5, 1, 2], [1, 0, 0, 2]
    states = torch.randn(sum(lengths), 6, dtype=torch.float64)
    ours = pool(states, torch.tensor(lengths), torch.tensor(prefixes))
    slow = torch.tensor(slow_pool(states.tolist(), lengths, prefixes), dtype=torch.float64)
    assert torch.allclose(ours, slow, atol=1e-12, rtol=0)


def test_first_and_last_states_are_taken_from_each_text_whatever_its_prefix():
    lengths, prefixes = torch.tensor([3, 1, 4]), torch.tensor([1, 1, 0])
    states = torch.randn(8, 6, dtype=torch.float64, requires_grad=True)
    for pooling, rows in ((Pooling.cls, [0, 3, 4]), (Pooling.last, [2, 3, 7])):
        ours = pool(states, lengths, prefixes, pooling)
        assert torch.allclose(ours, torch.stack([states[r] / states[r].norm() for r in rows]), atol=1e-12, rtol=0)
        states.grad = None
        ours[:, 0].sum().backward()
        assert states.grad.abs().sum(1).nonzero().flatten().tolist() == rows


def test_prefix_states_get_no_gradient():
    states = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    (pool(states, torch.tensor([4]), torch.tensor([2])) * torch.tensor([1.0, 2.0, 3.0])).sum().backward()
    assert (states.grad[:2] == 0).all()
    assert (states.grad[2:] != 0).any()


def test_bfloat16_states_are_averaged_in_float32():
    states = torch.randn(300, 4).to(torch.bfloat16)
    ours = pool(states, torch.tensor([300]), torch.tensor([0]))
    exact = torch.nn.functional.normalize(states.double().mean(0, keepdim=True))
    assert ours.dtype == torch.float32
    assert torch.allclose(ours.double(), exact, atol=1e-6, rtol=0)
