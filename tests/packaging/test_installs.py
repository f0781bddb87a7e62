"""A bare checkout, ``pip install .`` and ``pip install -e .``, each used from inside and outside the checkout."""

import json
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from installs import Environment, copy_checkout, stub_csrc

TRAIN = ["-m", "cifarfast.train", "--recipe", "quickstart", "--epochs", "1", "--limit-train", "64", "--quiet"]
PROBE = """
import json, torch
import cifarfast
from cifarfast.runtime import native_build
from cifarfast import kernels
from cifarfast.commands.cli import main
from cifarfast.kernels import CrossEntropyLoss, cross_entropy
from cifarfast.kernels.tuning import tables as tuning
from cifarfast.recipes.recipe import recipe_names
logits = torch.tensor([[2.0, 0.0, 0.0]])
assert torch.allclose(cross_entropy(logits, torch.tensor([0])), -logits.log_softmax(1)[0, 0])
folder = __import__("pathlib").Path(tuning.__file__).parent
print(json.dumps({
    "package": cifarfast.__file__,
    "kernels": kernels.__file__,
    "recipes": recipe_names(),
    "tuning": [sorted(json.loads(p.read_text())) for p in sorted(folder.glob("*.json"))],
}))
assert main(["models", "lenet"]) == 0
assert main(["env"]) == 0
"""

USER = """\
from pathlib import Path
from typing import assert_type

import cifarfast
from cifarfast.api import Run
from cifarfast.kernels import CrossEntropyLoss

run = cifarfast.Run("runs/digits")
assert_type(run, Run)
assert_type(run.path, Path)
assert_type(run.metrics, list[dict[str, float]])
assert_type(run.predictions.accuracy_percent, float)
assert_type(cifarfast.train("quickstart", epochs=1), Run)
Run(3)  # arg-type
run.metrics.accuracy  # attr-defined
run.accuracy  # attr-defined
cifarfast.train(quiet="yes")  # arg-type
CrossEntropyLoss(label_smoothing="much")  # arg-type
"""


@dataclass(frozen=True)
class Install:
    """One way to have the package; ``home`` is where its files lie when it is started outside the checkout."""

    environment: Environment
    checkout: Path
    home: Path
    kernels: Path
    settings: dict[str, str]


def bare(environment: Environment, checkout: Path) -> Install:
    return Install(environment, checkout, checkout / "cifarfast", checkout / "kernels", {"PYTHONPATH": str(checkout)})


def installed(environment: Environment, checkout: Path) -> Install:
    environment.pip_install(".", cwd=checkout)
    home = environment.site_packages / "cifarfast"
    return Install(environment, checkout, home, home / "kernels", {})


def editable(environment: Environment, checkout: Path) -> Install:
    environment.pip_install("-e", ".", cwd=checkout)
    return Install(environment, checkout, checkout / "cifarfast", checkout / "kernels", {})


@pytest.fixture(scope="module")
def install(request: pytest.FixtureRequest, compiler: str, tmp_path_factory: pytest.TempPathFactory) -> Install:
    folder = tmp_path_factory.mktemp("install")
    environment = Environment.create(folder / "venv", CIFARFAST_BUILD_CUDA="0", CXX=compiler)
    return request.param(environment, copy_checkout(folder / "checkout"))


@pytest.fixture(scope="module")
def stub_install(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Install:
    """One whose csrc compiles in no time."""
    folder = tmp_path_factory.mktemp("stub")
    checkout = stub_csrc(copy_checkout(folder / "checkout"))
    return request.param(Environment.create(folder / "venv", CIFARFAST_BUILD_CUDA="0"), checkout)


WAYS = [bare, installed, editable]
CASES = [(way, where) for way in WAYS for where in ("inside", "outside")]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("install", "where"), CASES, indirect=["install"], ids=[f"{way.__name__}-{where}" for way, where in CASES]
)
def test_every_entry_works(install: Install, where: str, tmp_path: Path) -> None:
    python, run = install.environment.python, install.environment.run
    cwd, home, kernels, settings = tmp_path, install.home, install.kernels, install.settings
    if where == "inside":  # `python -m` and `python -c` put the present folder first: the checkout's own files are used
        cwd, settings = install.checkout, {}
        home, kernels = cwd / "cifarfast", cwd / "kernels"

    first, *rest = run(python, "-c", PROBE, cwd=cwd, **settings).stdout.splitlines()
    probe = json.loads(first)
    assert Path(probe["package"]) == home / "__init__.py"
    assert Path(probe["kernels"]) == kernels / "__init__.py"
    assert probe["recipes"] == sorted(path.stem for path in (install.checkout / "cifarfast/recipes").glob("*.toml"))
    assert "quickstart" in probe["recipes"]
    tunings = sorted((install.checkout / "kernels/tuning").glob("*.json"))
    assert probe["tuning"] == [sorted(json.loads(path.read_text())) for path in tunings]
    assert tunings
    assert any(line.split()[:2] == ["lenet", "62,006"] for line in rest)
    assert any(line.split()[:1] == ["csrc"] for line in rest)
    assert any(line.split()[:2] == ["cross_entropy", "torch"] for line in rest)

    done = run(python, *TRAIN, "--out", str(tmp_path / "run"), cwd=cwd, **settings)
    assert done.stderr == ""
    assert "test accuracy" in done.stdout
    environment = json.loads((tmp_path / "run/environment.json").read_text())
    assert environment["native"].startswith("compiled without CUDA: ")
    assert environment["backends"]["cross_entropy"] == {"backend": "torch", "reason": "tensors on cpu"}
    assert Path(environment["argv"][0]) == home / "train.py"


# those that share an install stand together
@pytest.mark.slow
@pytest.mark.parametrize("stub_install", [bare, editable, installed], indirect=True, ids=lambda way: way.__name__)
def test_the_console_script_is_the_package(stub_install: Install, tmp_path: Path) -> None:
    install, run = stub_install, stub_install.environment.run
    command = [install.environment.console_script]
    if install.settings:
        command = [install.environment.python, "-m", "cifarfast"]
    usage = run(*command, "--help", cwd=tmp_path, **install.settings).stdout
    for name in ("train", "evaluate", "report", "models", "recipes", "datasets", "env"):
        assert f"\n  {name} " in usage
    assert "| quickstart |" in run(*command, "recipes", cwd=tmp_path, **install.settings).stdout
    assert run(*command, "--version", cwd=install.checkout, **install.settings).stdout == "0.1.0\n"


@pytest.mark.parametrize("stub_install", [installed], indirect=True)
def test_what_is_installed(stub_install: Install) -> None:
    """The wheel: the package with its data and nothing beside it."""
    checkout, names = stub_install.checkout, stub_install.environment.installed_files()
    assert {name.partition("/")[0] for name in names} == {"cifarfast", ".."}
    assert [name for name in names if name.startswith("..")] == ["../../../bin/cifarfast"]
    held = {name for name in names if name.startswith("cifarfast/")}
    expected = {path.relative_to(checkout) for path in (checkout / "cifarfast").rglob("*") if path.is_file()}
    expected |= {
        Path("cifarfast") / path.relative_to(checkout)
        for path in (checkout / "kernels").rglob("*")
        if path.is_file() and path.suffix in (".py", ".json")
    }
    expected = {path for path in expected if path.suffix not in (".so", ".pyc")}
    (extension,) = (name for name in held if name.endswith(".so"))
    assert extension.startswith("cifarfast/_C.")
    assert held - {extension} == {path.as_posix() for path in expected}
    assert not [name for name in held if "test" in name.replace("kernels/testing/", "")]


@pytest.mark.parametrize("stub_install", [installed], indirect=True)
def test_a_users_types_are_checked(stub_install: Install, tmp_path: Path) -> None:
    """mypy reads the installed package's types: it accepts USER but for the mistakes that a comment announces."""
    environment = stub_install.environment
    assert "cifarfast/py.typed" in environment.installed_files()
    (environment.site_packages / "dependencies.pth").unlink()  # torch's types would take mypy a minute
    (tmp_path / "user.py").write_text(USER)
    mypy = [sys.executable, "-m", "mypy", "--config-file=", "--python-executable", environment.python]
    said = environment.run(*mypy, "user.py", cwd=tmp_path, fails=True).stdout
    errors = re.findall(r"^user\.py:(\d+): error: .*\[(.+)\]$", said, re.MULTILINE)
    mistakes = [(str(i), line.partition("  # ")[2]) for i, line in enumerate(USER.splitlines(), 1) if "  # " in line]
    assert errors == mistakes, said


@pytest.mark.slow
def test_an_editable_install_follows_csrc(tmp_path: Path, compiler: str) -> None:
    environment = Environment.create(tmp_path / "venv", CIFARFAST_BUILD_CUDA="0", CXX=compiler)
    checkout = copy_checkout(tmp_path / "checkout")
    editable(environment, checkout)
    with next((checkout / "csrc").glob("*.h")).open("a") as header:
        header.write("// changed\n")
    assert "csrc         not compiled yet" in environment.run(environment.console_script, "env", cwd=tmp_path).stdout
    done = environment.run(environment.python, *TRAIN, "--out", str(tmp_path / "run"), cwd=tmp_path)
    assert done.stderr == ""
    assert "csrc         compiled " in environment.run(environment.console_script, "env", cwd=tmp_path).stdout


@pytest.mark.slow
def test_source_distribution(tmp_path: Path) -> None:
    """It holds all of csrc/ even when it was made where nothing can be compiled, and a compiler can build it."""
    checkout = stub_csrc(copy_checkout(tmp_path / "checkout"))
    maker = Environment.create(tmp_path / "maker", CXX="/nonexistent")
    maker.run(maker.python, "setup.py", "-q", "sdist", cwd=checkout)
    (archive,) = (checkout / "dist").glob("cifarfast-*.tar.gz")
    shutil.unpack_archive(archive, tmp_path / "unpacked", filter="data")
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    held = {path.relative_to(unpacked).as_posix() for path in unpacked.rglob("*") if path.is_file()}
    assert {"csrc/bindings.cpp", "csrc/kernel.cu", "csrc/with_cuda.h"} <= held
    assert {"LICENSE", "README.md", "pyproject.toml", "setup.py", "kernels/tuning/default.json"} <= held
    assert not any(name.startswith(("tests/", "build/")) for name in held)

    user = Environment.create(tmp_path / "user", CIFARFAST_BUILD_CUDA="0")
    user.pip_install(str(archive), cwd=tmp_path)
    assert any(name.startswith("cifarfast/_C.") for name in user.installed_files())
    code = "import cifarfast._C, cifarfast.kernels; print(cifarfast.kernels.__file__)"
    where = user.run(user.python, "-c", code, cwd=tmp_path).stdout.strip()
    assert Path(where) == user.site_packages / "cifarfast/kernels/__init__.py"


@pytest.mark.slow
def test_what_an_earlier_build_left_is_not_installed(tmp_path: Path) -> None:
    checkout = copy_checkout(tmp_path / "checkout")
    environment = Environment.create(tmp_path / "venv", CXX="/nonexistent")
    stale = checkout / "cifarfast" / "stale.py"
    stale.touch()
    environment.pip_install(".", cwd=checkout)
    assert "cifarfast/stale.py" in environment.installed_files()
    stale.unlink()
    assert list((checkout / "build").rglob("stale.py"))
    environment.pip_install(".", cwd=checkout)
    assert "cifarfast/stale.py" not in environment.installed_files()
