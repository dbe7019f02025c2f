"""Folders of models that cannot be used as they are, and are told by what is wrong with them."""

import pytest

from agentmem.embedding.model_card import read_card
from agentmem.embedding.sentence_transformers import describe
from agentmem.errors import ModelError


def test_a_pointer_of_git_lfs_is_named_as_one(tmp_path):
    (tmp_path / "model.onnx").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelError, match=r"model.onnx' is a pointer of Git LFS"):
        read_card(tmp_path)


def test_a_pooling_without_prompts_is_refused_by_name(tmp_path):
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "modules.json").write_text('[{"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"}]')
    (tmp_path / "1_Pooling" / "config.json").write_text('{"pooling_mode_cls_token": true, "include_prompt": false}')
    with pytest.raises(ModelError, match="include_prompt"):
        describe(tmp_path)
