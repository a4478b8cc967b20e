"""A network that still learns or draws is refused, and the module is named."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

pytest.importorskip("torch", reason="skipped: torch: make setup")

import nets
import torch

from converters.frozen import check_graph, check_script_graph, freeze, repeated
from serving.errors import NotFrozen

X = torch.from_numpy(np.random.default_rng(0).random((2, 1, 8, 8), np.float32))


def test_a_plain_network_passes_all_three_looks() -> None:
    net = nets.tiny()
    freeze(net)
    check_graph(torch.export.export(net, (X,), strict=False))
    torch.testing.assert_close(repeated(net, lambda: [net(X)])[0], net(X))


def test_a_batchnorm_that_stays_in_train_mode_is_named() -> None:
    with pytest.raises(NotFrozen, match=r"bn \(StubbornBatchNorm\) is in train mode"):
        freeze(nets.stubborn())


def test_a_batchnorm_without_running_statistics_is_named() -> None:
    with pytest.raises(NotFrozen, match=r"bn \(BatchNorm2d\) has no running statistics"):
        freeze(nets.batch_statistics())


def test_a_functional_dropout_is_found_in_the_graph() -> None:
    net = nets.always_drops()
    freeze(net)
    with pytest.raises(NotFrozen, match="dropout"):
        check_graph(torch.export.export(net, (X,), strict=False))


def test_an_exported_program_in_train_mode_is_refused_with_the_modules() -> None:
    program = torch.export.export(nets.tiny().train(), (X,), strict=False)
    with pytest.raises(NotFrozen, match=r"bn \(batch_norm.default\); drop \(dropout.default\)"):
        check_graph(program)


def test_a_script_traced_in_train_mode_is_refused() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        script = torch.jit.trace(nets.tiny().train(), (X,), check_trace=False)
    with pytest.raises(NotFrozen, match="batch_norm"):
        check_script_graph(script)


def test_a_network_that_answers_twice_differently_is_refused() -> None:
    net = nets.always_drops()
    freeze(net)
    with pytest.raises(NotFrozen, match="two runs"):
        repeated(net, lambda: [net(X)])


def test_a_run_that_moves_the_statistics_is_refused() -> None:
    net = nets.tiny().train()
    with pytest.raises(NotFrozen, match="bn.running_mean"):
        repeated(net, lambda: [net(X)])
