"""The recipes of agentmem/integrations/README.md run with the real frameworks, and a missing one names its extra."""

import importlib
import re
import sys
import threading
from pathlib import Path

import pytest

import agentmem.integrations
from tests.frameworks import ADAPTERS, adapter_of, framework

PAGE = Path(agentmem.integrations.__file__).parent / "README.md"
RECIPES = {
    adapter: code
    for code in re.findall(r"^```python\n(.*?)^```", PAGE.read_text("utf-8"), re.M | re.S)
    if (adapter := adapter_of(code)) is not None
}


def test_every_adapter_has_a_recipe():
    assert RECIPES.keys() == ADAPTERS.keys()


@pytest.mark.parametrize("adapter", RECIPES)
def test_the_recipe_runs(adapter, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    framework(ADAPTERS[adapter])
    exec(compile(RECIPES[adapter], f"the recipe of {adapter}", "exec"), {"__name__": "recipe"})
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("agentmem")]


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_without_its_framework_an_adapter_names_the_extra(adapter, monkeypatch):
    name = ADAPTERS[adapter].partition(".")[0]
    for module in [each for each in sys.modules if each.partition(".")[0] == name]:
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, f"agentmem.integrations.{adapter}", raising=False)
    with pytest.raises(ModuleNotFoundError, match=r"install 'agentmem\[[a-z-]+\]'"):
        importlib.import_module(f"agentmem.integrations.{adapter}")
