"""CITATION.cff says of the package what the package says of itself."""

import tomllib

import yaml
from installs import ROOT

import cifarfast


def test_the_citation_is_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert citation["cff-version"] == "1.2.0"
    assert citation["message"]
    assert citation["type"] == "software"
    assert citation["authors"] == [{"name": "The cifarfast team"}]
    assert citation["title"] == project["name"]
    assert citation["version"] == cifarfast.__version__
    assert citation["license"] == project["license"]
    assert citation["keywords"] == project["keywords"]
