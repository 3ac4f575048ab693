"""A used LRP explains the model as it is at the call: names, hooks for all modules, options."""

import copy
import gc
import threading
import weakref
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

import relprop
from relprop.errors import CaptureError, UsageError

X = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def _net() -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 3, 3), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2)).eval()


def _names(lrp: relprop.LRP) -> list[str]:
    return [node.name for node in lrp.graph(X).nodes]


def test_modules_that_change_places_have_the_names_of_their_new_ones():
    model = _net()
    lrp = relprop.LRP(model, keep=["0", "3"])
    lrp(X)
    model[0], model[3] = model[3], model[0]
    fresh = relprop.LRP(model, keep=["0", "3"])
    assert _names(lrp) == _names(fresh)
    used, new = lrp(X), fresh(X)
    for key in used.kept:
        torch.testing.assert_close(used.kept[key], new.kept[key])
    model.insert(0, nn.Identity())
    moved = relprop.LRP(model)
    before = _names(moved)
    del model[0]
    assert _names(moved) == _names(relprop.LRP(model)) != before


@pytest.mark.parametrize(
    ("register", "hook"),
    [
        (register_module_forward_hook, lambda module, args, output: output * 0.5),
        (register_module_forward_pre_hook, lambda module, args: (args[0] + 0.1,)),
    ],
    ids=["forward", "before"],
)
def test_hooks_for_all_modules_are_for_those_of_the_model(register, hook):
    model = _net()
    lrp = relprop.LRP(model)
    handle = register(hook)
    try:
        torch.testing.assert_close(lrp(X).logits, model(X).detach())
    finally:
        handle.remove()
    torch.testing.assert_close(lrp(X).logits, model(X).detach())


@pytest.mark.parametrize("composite", [relprop.epsilon, relprop.paper], ids=["epsilon", "paper"])
def test_another_epsilon_of_a_batch_norm_that_is_folded(composite):
    model, folds = _net(), replace(composite(), batch_norm="fold")
    model[1].bias.data.fill_(0.3)
    model[1].running_mean.fill_(0.2)
    lrp = relprop.LRP(model, folds)
    for eps in (1e-5, 1.0, 1e-3):
        model[1].eps = eps
        fresh = relprop.LRP(copy.deepcopy(model), folds)(X)
        torch.testing.assert_close(lrp(X).relevance, fresh.relevance, rtol=1e-4, atol=1e-7)


class _Counts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = _net()
        self.register_buffer("count", torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        self.count += 1
        return self.net(x * self.count)


def test_a_buffer_that_was_replaced_is_put_back_too():
    model = _Counts().eval()
    lrp = relprop.LRP(model)
    lrp(X)
    model.count = torch.full((1,), 3.0)
    lrp(X)
    assert model.count.item() == 3


def test_a_buffer_that_several_threads_write_to_is_put_back():
    model = _Counts().eval()
    lrps = [relprop.LRP(model) for _ in range(3)]
    expected = lrps[0](X).logits
    results: list[Tensor] = []

    def explain(lrp: relprop.LRP) -> None:
        results.extend(lrp(X).logits for _ in range(5))

    threads = [threading.Thread(target=explain, args=(lrps[k % 3],)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert model.count.item() == 1
    assert len(results) == 40
    for logits in results:
        torch.testing.assert_close(logits, expected)


def test_what_is_known_of_weights_that_are_gone_is_forgotten():
    model = _net()
    lrp = relprop.LRP(model)
    sizes = []
    for _ in range(12):
        model[0].weight = nn.Parameter(torch.randn(3, 3, 3, 3))
        lrp(X)
        store = lrp._prepared.store
        sizes.append((len(store.prints), len(store.keys)))
    assert sizes[-1] == sizes[3]


def test_a_refusal_that_the_models_code_catches_keeps_nothing_alive():
    held: list[weakref.ref[Tensor]] = []

    class Catches(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            h = x.relu()
            held.append(weakref.ref(h))
            try:
                nn.functional.dropout(h)
            except CaptureError:
                return h.mean((2, 3))
            return h.mean((2, 3))

    gc.collect()
    gc.disable()
    try:
        with pytest.raises(CaptureError, match="training mode"):
            relprop.explain(Catches().eval(), X)
        assert held[0]() is None
    finally:
        gc.enable()


def test_a_lazy_module_is_refused_until_it_has_run():
    model = nn.Sequential(nn.LazyConv2d(4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    lrp = relprop.LRP(model)
    with pytest.raises(CaptureError, match=r"weight 0\.weight has no shape yet.*call model\(x\) once"):
        lrp(X)
    expected = model(X).detach()
    torch.testing.assert_close(lrp(X).logits, expected)


def test_a_position_counts_all_that_a_model_returns():
    class Several(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = _net()

        def forward(self, x: Tensor) -> tuple[None, Tensor, Tensor]:
            scores = self.net(x)
            return None, scores, 2 * scores

    model = Several().eval()
    scores = model(X)[1].detach()
    torch.testing.assert_close(relprop.explain(model, X, output=1).logits, scores)
    torch.testing.assert_close(relprop.explain(model, X, output=-1).logits, 2 * scores)
    with pytest.raises(UsageError, match="without an entry 0"):
        relprop.explain(model, X, output=0)
