"""Fixtures of the tests of installs."""

import shutil

import pytest
from installs import COMPILER


@pytest.fixture(scope="session")
def compiler(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("compiler")
    program = folder / "c++"
    program.write_text(COMPILER.format(cxx=shutil.which("g++") or "clang++", folder=folder))
    program.chmod(0o755)
    return str(program)
