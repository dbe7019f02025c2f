"""Files with something wrong in their structure raise nothing but errors of agentmem; `tests.torture.formats` is the
long form."""

import pytest

from agentmem.transfer.chats import BY_NAME
from tests.torture.formats import torture


@pytest.mark.parametrize("name", BY_NAME)
def test_a_harmed_file_is_read_as_far_as_it_makes_sense(name):
    told = torture(name, 40, seed=7)
    assert told["memories"] > 0
    assert told["refused"] < told["cases"]
