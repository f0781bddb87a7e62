"""The locks hold hashes for everything and satisfy pyproject.toml, on every platform. No network is needed."""

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest
from installs import ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

RUN, DEV, LATEST = "requirements.lock", "requirements-dev.lock", "requirements-latest.lock"
PYTHONS = ("3.11", "3.12", "3.13")
PLATFORMS = {
    "linux": {"platform_system": "Linux", "platform_machine": "x86_64", "os_name": "posix"},
    "darwin": {"platform_system": "Darwin", "platform_machine": "arm64", "os_name": "posix"},
    "win32": {"platform_system": "Windows", "platform_machine": "AMD64", "os_name": "nt"},
}
MARKERS = [
    {"python_version": python, "python_full_version": f"{python}.1", "sys_platform": platform, **markers}
    for platform, markers in PLATFORMS.items()
    for python in PYTHONS
]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
ASKED_FOR_HERE = "cifarfast (pyproject.toml)"


@dataclass(frozen=True)
class Pin:
    """One requirement of a lock: ``name==version ; marker --hash=… --hash=…  # via …``."""

    requirement: Requirement
    hashes: tuple[str, ...]
    via: str

    @property
    def name(self) -> str:
        return canonicalize_name(self.requirement.name)

    @property
    def version(self) -> str:
        (pin,) = self.requirement.specifier
        assert pin.operator == "=="
        return pin.version


def read_lock(path: Path) -> list[Pin]:
    text = path.read_text().replace("\\\n", "")
    blocks = re.findall(r"^([^\s#].*)\n((?: +#.*\n)*)", text, re.MULTILINE)
    pins = []
    for line, comments in blocks:
        requirement, *hashes = re.split(r"\s+--hash=", line.strip())
        pins.append(Pin(Requirement(requirement), tuple(hashes), " ".join(comments.replace("#", "").split())))
    return pins


def active(pins: list[Pin], markers: dict[str, str]) -> dict[str, Pin]:
    """What pip installs where ``markers`` hold, by name; a name has one version."""
    chosen = [pin for pin in pins if pin.requirement.marker is None or pin.requirement.marker.evaluate(markers)]
    by_name = {pin.name: pin for pin in chosen}
    assert len(by_name) == len(chosen), "a package in two versions"
    return by_name


def declared(lock: str) -> list[Requirement]:
    """What the lock has to hold at least: the package's ranges, and what it is built with."""
    project = PYPROJECT["project"]
    texts = [*project["dependencies"], *PYPROJECT["build-system"]["requires"]]
    if lock != RUN:
        texts += project["optional-dependencies"]["dev"]
    return [Requirement(text) for text in texts]


@pytest.mark.parametrize("lock", [RUN, DEV, LATEST])
def test_every_requirement_is_pinned_and_hashed(lock: str) -> None:
    pins = read_lock(ROOT / lock)
    for pin in pins:
        assert pin.version
        assert pin.requirement.url is None
        assert pin.hashes
        assert all(re.fullmatch("sha256:[0-9a-f]{64}", digest) for digest in pin.hashes), pin.name
    # pins and their hashes are all there is: no index, no file of the machine that made the lock
    outside_comments = re.sub(r"^ *#.*\n", "", (ROOT / lock).read_text(), flags=re.MULTILINE)
    assert len(re.findall("--", outside_comments)) == sum(len(pin.hashes) for pin in pins)
    assert "/" not in outside_comments


@pytest.mark.parametrize("lock", [RUN, DEV, LATEST])
def test_it_holds_what_pyproject_asks_for(lock: str) -> None:
    """Fails when pyproject.toml was changed and `make lock` was not run."""
    pins = read_lock(ROOT / lock)
    for markers in MARKERS:
        held = active(pins, markers)
        for requirement in declared(lock):
            if requirement.marker is None or requirement.marker.evaluate(markers):
                version = held[canonicalize_name(requirement.name)].version
                assert requirement.specifier.contains(version), f"{requirement} but {version}: make lock"
    asked_for = {pin.name for pin in pins if ASKED_FOR_HERE in pin.via}
    assert asked_for <= {canonicalize_name(requirement.name) for requirement in declared(lock)}


@pytest.mark.parametrize(
    ("lock", "constraints"), [(RUN, "constraints.txt"), (DEV, "constraints.txt"), (LATEST, "constraints-latest.txt")]
)
def test_it_holds_to_its_constraints(lock: str, constraints: str) -> None:
    held = active(read_lock(ROOT / lock), MARKERS[0])
    lines = (ROOT / constraints).read_text().splitlines()
    for requirement in map(Requirement, (line for line in lines if not line.startswith("#"))):
        assert requirement.specifier.contains(held[canonicalize_name(requirement.name)].version), requirement


@pytest.mark.parametrize("markers", MARKERS, ids=lambda each: f"{each['sys_platform']}-{each['python_version']}")
def test_the_developers_lock_only_adds_to_the_users(markers: dict[str, str]) -> None:
    run, dev = active(read_lock(ROOT / RUN), markers), active(read_lock(ROOT / DEV), markers)
    assert {name: (pin.version, pin.hashes) for name, pin in run.items()}.items() <= {
        name: (pin.version, pin.hashes) for name, pin in dev.items()
    }.items()


@pytest.mark.parametrize("lock", [RUN, DEV, LATEST])
def test_cuda_is_for_linux(lock: str) -> None:
    pins = read_lock(ROOT / lock)
    for markers in MARKERS:
        cuda = [name for name in active(pins, markers) if name.startswith("nvidia-")]
        assert bool(cuda) == (markers["sys_platform"] == "linux"), cuda
