"""``replace_modules``: the same results, the same names, the same parameters."""

import copy
import doctest
import io

import pytest
import torch
from replace_models import LARGE, MODELS, SLOW, SMALL, FunctionalBlock, build, conv_bn_relu
from torch import Tensor, nn

from cifarfast.kernels import BatchNormAct2d, MaxPoolBatchNormAct2d, replace_modules
from cifarfast.kernels.replace import swap
from cifarfast.kernels.replace.module_rules import is_candidate
from cifarfast.kernels.replace.modules import ConvBatchNormAct2d, FusedCrossEntropyLoss, ResidualBlock

NAMES = [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in MODELS]


def results(model: nn.Module, x: Tensor) -> list[Tensor]:
    """Output, gradients and buffers, in fp64."""
    torch.manual_seed(1)
    x = x.clone().requires_grad_()
    out = model(x)
    out.backward(torch.linspace(-1, 1, out.numel(), dtype=out.dtype, device=out.device).view_as(out))
    values = [out, x.grad, *(p.grad for p in model.parameters() if p.grad is not None), *model.buffers()]
    model.zero_grad()
    return [value.detach().double() for value in values]


def relative(name: str) -> float:
    """The error allowed: a few roundings; in a deep network some relus near their corner fall to the other side."""
    return 4e-6 if name in SMALL else 1e-2


def assert_same_results(ours: nn.Module, torchs: nn.Module, x: Tensor, relative: float) -> None:
    """As near to the results in fp64 as those of the original are, within a factor and ``relative``."""
    ours.load_state_dict(torchs.state_dict())
    exact = copy.deepcopy(torchs).double()
    pairs = zip(results(ours, x), results(torchs, x), results(exact, x.double()), strict=True)
    compared = [(a - t, b - t, t) for a, b, t in pairs]
    # a bias before a batch norm has no gradient but rounding errors
    floor = 1e-6 * max(t.square().mean().sqrt().item() for *_, t in compared)
    for error, torch_error, truth in compared:
        rms, torch_rms, size = (v.square().mean().sqrt().item() for v in (error, torch_error, truth))
        assert rms <= 4 * torch_rms + relative * size + floor


@pytest.mark.parametrize("name", NAMES)
def test_same_results(name: str) -> None:
    torchs, x = build(name)
    ours = copy.deepcopy(torchs)
    report = replace_modules(ours)
    ours = report.model
    counts: dict[str, int] = {}
    for entry in report.replaced:
        counts[entry.op] = counts.get(entry.op, 0) + 1
    assert counts == MODELS[name][2], str(report)
    for training in (True, True, False):
        ours.train(training)
        torchs.train(training)
        assert_same_results(ours, torchs, x, relative(name))
    ours.eval()
    with torch.no_grad():
        torch.testing.assert_close(ours(x), torchs(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_state_dict_both_ways(name: str) -> None:
    torchs, x = build(name)
    ours = replace_modules(build(name, seed=5)[0]).model
    assert list(ours.state_dict()) == list(torchs.state_dict())
    ours.load_state_dict(torchs.state_dict())
    torch.testing.assert_close(ours.eval()(x), torchs.eval()(x), rtol=1e-4, atol=1e-4)
    original, _ = build(name, seed=6)
    original.load_state_dict(ours.state_dict())
    torch.testing.assert_close(original.eval()(x), torchs(x), rtol=0, atol=0)


@pytest.mark.parametrize("name", NAMES)
def test_every_candidate_is_in_one_list(name: str) -> None:
    model, _ = build(name)
    names = {id(module): path for path, module in model.named_modules()}
    timms = [module for module in model.modules() if hasattr(module, "act") and isinstance(module, nn.BatchNorm2d)]
    inside = {id(part) for module in timms for part in module.children()}
    expected = {names[id(m)] for m in model.modules() if is_candidate(m) and id(m) not in inside}
    report = replace_modules(model)
    replaced = {path for entry in report.replaced for path in entry.names}
    left = [entry.name for entry in report.left]
    assert len(left) == len(set(left))
    assert replaced.isdisjoint(left)
    assert replaced | set(left) == expected
    assert all(entry.reason for entry in report.left)
    text = str(report)
    assert all(path in text for path in expected)
    again = replace_modules(report.model)
    assert not again.replaced
    assert {entry.reason for entry in again.left if entry.name in replaced} <= {"it is fused already"}


# of the others the convolutions are those of "shared relu"
COMPILED = ["shared relu", "pooling", "pre-activation", "functional block", "used elsewhere", "loss inside"]


@pytest.mark.parametrize("name", [*COMPILED, *(pytest.param(name, marks=pytest.mark.slow) for name in LARGE)])
def test_compiles(name: str) -> None:
    torchs, x = build(name)
    ours = replace_modules(copy.deepcopy(torchs)).model
    torch.compiler.reset()
    compiled = torch.compile(ours, fullgraph=True, backend="aot_eager")
    for training in (True, False):
        ours.train(training)
        torchs.train(training)
        torch.testing.assert_close(compiled(x), torchs(x), rtol=1e-3, atol=1e-3)


def test_parameters_buffers_and_mode_stay() -> None:
    model, x = build("torchvision basic blocks")
    model.layer1.eval()
    model.layer2[0].bn1.weight.requires_grad_(False)
    parameters, buffers = dict(model.named_parameters()), dict(model.named_buffers())
    modes = {name: module.training for name, module in model.named_modules()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    state = torch.get_rng_state()
    report = replace_modules(model)
    assert torch.equal(torch.get_rng_state(), state)
    assert report.model is model
    assert all(parameters[name] is p for name, p in model.named_parameters())
    assert all(buffers[name] is b for name, b in model.named_buffers())
    assert all(modes[name] == module.training for name, module in model.named_modules() if name in modes)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    model(x).square().sum().backward()
    optimizer.step()
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == before.keys() - {"layer2.0.bn1.weight"}


def test_modules_keep_their_names() -> None:
    model, _ = build("torchvision basic blocks")
    replace_modules(model)
    assert isinstance(model.bn1, BatchNormAct2d)
    assert isinstance(model.relu, nn.Identity)
    assert isinstance(model.layer1[0], ResidualBlock)
    assert isinstance(model.layer1[0].bn1, ConvBatchNormAct2d)
    assert isinstance(model.layer1[0].conv1, nn.Conv2d)
    assert "BasicBlock: bn1 → bn2 + downsample" in repr(model.layer2[0])
    pooled = replace_modules(build("pooling")[0]).model
    assert isinstance(pooled[1], MaxPoolBatchNormAct2d)


@pytest.mark.parametrize("name", ["torchvision basic blocks", "timm resnetv2_18", "loss inside"])
def test_copies_and_files(name: str) -> None:
    model, x = build(name)
    model = replace_modules(model).model.eval()
    clone = copy.deepcopy(model)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    expected = model(x)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    for other in (clone, loaded):
        torch.testing.assert_close(other(x), expected, rtol=0, atol=0)


@pytest.mark.parametrize("model_dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_dtypes(model_dtype: torch.dtype) -> None:
    torchs, x = build("functional block")
    ours = replace_modules(copy.deepcopy(torchs)).model
    ours, torchs, x = ours.to(model_dtype), torchs.to(model_dtype), x.to(model_dtype)
    tolerance = 1e-9 if model_dtype == torch.float64 else 0.1
    a, b = ours(x), torchs(x)
    assert a.dtype == model_dtype
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", ["sequential", "functional block", "torchvision basic blocks"])
def test_autocast(name: str) -> None:
    torchs, x = build(name)
    ours = replace_modules(copy.deepcopy(torchs)).model
    exact = torchs(x)
    with torch.autocast("cpu", torch.bfloat16):
        a, b = ours(x), torchs(x)
    assert a.dtype == b.dtype == torch.bfloat16
    assert (a - exact).norm() <= 1.5 * (b - exact).norm()
    ours.zero_grad()
    a.float().sum().backward()
    assert all(p.grad.dtype == torch.float32 for p in ours.parameters())


@pytest.mark.parametrize("options", [{}, {"ignore_index": 2}, {"reduction": "none"}, {"reduction": "sum"}])
def test_loss(options: dict[str, object]) -> None:
    torchs = nn.CrossEntropyLoss(torch.rand(5) + 0.1, label_smoothing=0.2, **options)
    report = replace_modules(torchs)
    ours = report.model
    assert isinstance(ours, FusedCrossEntropyLoss)
    assert [entry.op for entry in report.replaced] == ["cross_entropy"]
    assert ours.state_dict().keys() == torchs.state_dict().keys() == {"weight"}
    labels = torch.tensor([0, -100, 2, 4, 2]) if not options else torch.tensor([0, 1, 2, 4, 2])
    image = (torch.randn(2, 5, 3, 3), torch.randint(5, (2, 3, 3)))
    pairs = [(torch.randn(5, 5), labels), image]
    if "ignore_index" not in options:
        pairs += [(torch.randn(5, 5), torch.rand(5, 5)), (torch.randn(5, 5), torch.rand(5, 5, requires_grad=True))]
    for x, target in pairs:
        a, b = (x.clone().requires_grad_() for _ in range(2))
        loss, expected = ours(a, target), torchs(b, target)
        torch.testing.assert_close(loss, expected)
        loss.sum().backward()
        expected.sum().backward()
        torch.testing.assert_close(a.grad, b.grad)


@pytest.mark.parametrize("kind", ["LabelSmoothingCrossEntropy", "SoftTargetCrossEntropy"])
def test_losses_of_timm(kind: str) -> None:
    torchs = getattr(pytest.importorskip("timm.loss"), kind)()
    model = nn.ModuleDict({"criterion": copy.deepcopy(torchs)})
    report = replace_modules(model)
    assert [str(entry) for entry in report.replaced] == ["criterion: cross_entropy, softmax, loss and gradient"]
    assert [entry.reason for entry in replace_modules(model).left] == ["it is fused already"]
    ours = model["criterion"]
    soft = torch.randn(6, 5).softmax(dim=1)
    if kind == "SoftTargetCrossEntropy":
        # the last two are not for the op: one target for all, one that gets a gradient
        targets = [soft, soft.double(), soft[:1], soft.clone().requires_grad_()]
    else:
        targets = [torch.randint(5, (6,))]
    for dtype in (torch.float32, torch.float64):
        for target in targets:
            a, b = (torch.randn(6, 5, generator=torch.manual_seed(0)).to(dtype).requires_grad_() for _ in range(2))
            loss, expected = ours(a, target), torchs(b, target)
            torch.testing.assert_close(loss, expected, check_dtype=False)
            loss.backward()
            expected.backward()
            torch.testing.assert_close(a.grad, b.grad)
        compiled = torch.compile(ours, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(a, targets[0]), torchs(a, targets[0]))


def test_losses_of_timm_that_are_left() -> None:
    loss = pytest.importorskip("timm.loss").LabelSmoothingCrossEntropy
    model = nn.ModuleList([loss(-0.1), type("MyLoss", (loss,), {})(0.1)])
    report = replace_modules(model)
    assert not report.replaced
    assert [entry.reason for entry in report.left] == ["its smoothing must lie in [0, 1], it is -0.1", "it is a MyLoss"]


def test_lone_block_and_lone_loss_are_returned() -> None:
    block = FunctionalBlock()
    report = replace_modules(block)
    assert isinstance(report.model, ResidualBlock)
    assert report.model.state_dict().keys() == block.state_dict().keys()


def test_mistakes() -> None:
    model = conv_bn_relu(8, 8)
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module, got dict"):
        replace_modules({"model": model})
    with pytest.raises(ValueError, match="model must not be wrapped yet: replace the modules of DataParallel"):
        replace_modules(nn.DataParallel(model))
    with pytest.raises(ValueError, match="model must not be compiled yet"):
        replace_modules(nn.Sequential(torch.compile(model)))
    with pytest.raises(ValueError, match="model must not be scripted"):
        replace_modules(torch.jit.script(model))
    model.compile()
    with pytest.raises(ValueError, match="model must not be compiled yet"):
        replace_modules(model)


def test_the_docstrings_example() -> None:
    finder = doctest.DocTestFinder(recurse=False)
    (test,) = finder.find(swap.replace_modules, globs={})
    assert test.examples
    assert doctest.DocTestRunner().run(test).failed == 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("name", NAMES)
def test_same_results_on_a_gpu(name: str) -> None:
    torchs, x = build(name)
    torchs, x = torchs.cuda(), x.cuda()
    ours = replace_modules(copy.deepcopy(torchs)).model
    for training in (True, False):
        ours.train(training)
        torchs.train(training)
        assert_same_results(ours, torchs, x, relative(name))
