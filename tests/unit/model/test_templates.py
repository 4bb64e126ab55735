"""How instruction and text become tokens: one string, the tokenizer's own BOS, the instruction never cut."""

import numpy as np
import pytest
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from reasonir.core.errors import UserError
from reasonir.model.templates import Template, TemplateStyle, instruction_of, prompt
from reasonir.model.tiny import BOS, build_tokenizer
from tests.kit.shared import SHARED_DATA, requires_shared_data
from tests.kit.texts import INSTRUCTION, SENTENCES


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer([*SENTENCES, f"<|user|>\n{INSTRUCTION}\n<|embed|>\n"], 600)


def encode(tokenizer, instruction, text, style=TemplateStyle.reasonir, max_tokens=2048):
    return Template(tokenizer, style).encode([(instruction, text)], max_tokens)[0]


def test_the_released_form_is_one_string_after_the_tokenizers_own_bos(tokenizer):
    whole = f"<|user|>\n{INSTRUCTION}\n<|embed|>\n{SENTENCES[0]}"
    encoded = encode(tokenizer, INSTRUCTION, SENTENCES[0])
    assert encoded.ids.tolist() == tokenizer(whole)["input_ids"]
    assert encoded.ids[0] == tokenizer.bos_token_id == tokenizer.convert_tokens_to_ids(BOS)
    assert tokenizer.decode(encoded.ids[encoded.prefix_tokens :]) == SENTENCES[0]
    assert encode(tokenizer, "", "x").ids.tolist() == tokenizer("<|embed|>\nx")["input_ids"]
    assert prompt(TemplateStyle.reasonir, "") == "<|embed|>\n"


def test_the_prefix_holds_bos_and_tags_with_and_without_instruction(tokenizer):
    for instruction in ("", INSTRUCTION):
        before = len(tokenizer(prompt(TemplateStyle.reasonir, instruction))["input_ids"])
        assert encode(tokenizer, instruction, "Water.").prefix_tokens == before
    assert encode(tokenizer, "", "").prefix_tokens == len(encode(tokenizer, "", "").ids)


def test_truncation_cuts_the_text_and_keeps_the_instruction(tokenizer):
    full = encode(tokenizer, INSTRUCTION, SENTENCES[7])
    cut = encode(tokenizer, INSTRUCTION, SENTENCES[7], max_tokens=full.prefix_tokens + 5)
    assert cut.truncated
    assert not full.truncated
    assert len(cut.ids) == full.prefix_tokens + 5
    assert np.array_equal(cut.ids, full.ids[: len(cut.ids)])
    assert cut.prefix_tokens == full.prefix_tokens
    exact = encode(tokenizer, INSTRUCTION, SENTENCES[7], max_tokens=len(full.ids))
    assert not exact.truncated


def test_an_instruction_without_room_for_text_is_refused(tokenizer):
    prefix = encode(tokenizer, INSTRUCTION, "Water.").prefix_tokens
    with pytest.raises(UserError, match=rf"take {prefix} of {prefix} tokens"):
        encode(tokenizer, INSTRUCTION, "Water.", max_tokens=prefix)


def test_a_tokenizer_without_bos_gets_none(tokenizer):
    bare = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(tokenizer.backend_tokenizer.to_str()))
    assert bare.bos_token_id is None
    assert encode(bare, "", "Water.").ids.tolist() == tokenizer("<|embed|>\nWater.")["input_ids"][1:]


def test_stored_truncation_and_padding_do_not_apply(tokenizer):
    copy = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(tokenizer.backend_tokenizer.to_str()), bos_token=BOS
    )
    copy.backend_tokenizer.enable_truncation(4)
    copy.backend_tokenizer.enable_padding(length=50)
    encoded = Template(copy, TemplateStyle.reasonir).encode([("", SENTENCES[0]), ("", "x")], 2048)
    assert encoded[0].ids.tolist() == encode(tokenizer, "", SENTENCES[0]).ids.tolist()
    assert len(encoded[1].ids) < 50
    assert copy.backend_tokenizer.truncation is not None, "the caller's tokenizer was changed"


def test_the_fingerprint_tells_styles_and_tokenizers_apart(tokenizer):
    other = build_tokenizer(SENTENCES, 500)
    prints = {Template(t, style).fingerprint for t in (tokenizer, other) for style in TemplateStyle}
    assert len(prints) == 2 * len(TemplateStyle)
    pooled, prompted = (
        Template(tokenizer, TemplateStyle.plain, pools_prompt=True),
        Template(tokenizer, TemplateStyle.plain, document_prompt="passage: "),
    )
    assert len({*prints, pooled.fingerprint, prompted.fingerprint}) == len(prints) + 2
    assert Template(tokenizer, TemplateStyle.plain).fingerprint in prints


@pytest.mark.parametrize("style", TemplateStyle)
def test_an_instruction_is_read_back_from_what_was_written(style):
    for instruction in ("", INSTRUCTION):
        assert instruction_of(style, prompt(style, instruction)) == instruction
    written = [prompt(other, INSTRUCTION) for other in TemplateStyle]
    read = [instruction_of(style, text) == INSTRUCTION for text in written]
    assert read == [other is style for other in TemplateStyle]
    assert instruction_of(style, "query:") is None


def test_a_prompt_that_is_pooled_is_no_prefix_and_documents_have_their_own(tokenizer):
    template = Template(tokenizer, TemplateStyle.plain, document_prompt="passage: ", pools_prompt=True)
    query, document = template.encode([("query:", "Water."), ("", "Water.")], 100)
    assert query.prefix_tokens == document.prefix_tokens == 0
    assert tokenizer.decode(query.ids[1:]) == "query: Water."
    assert tokenizer.decode(document.ids[1:]) == "passage: Water."
    masked = Template(tokenizer, TemplateStyle.plain, document_prompt="passage: ").encode([("", "Water.")], 100)[0]
    assert masked.prefix_tokens == len(masked.ids) - len(tokenizer("Water.", add_special_tokens=False)["input_ids"])


@pytest.mark.shared_data
@requires_shared_data
def test_merges_that_cross_from_the_tag_into_the_text_happen_as_in_one_string():
    gpt2 = PreTrainedTokenizerFast(
        tokenizer_file=str(SHARED_DATA / "gpt2_bpe" / "tokenizer.json"), bos_token="<|endoftext|>"
    )
    text = "\n\nHello world"
    encoded = encode(gpt2, "", text)
    joint = gpt2("<|embed|>\n" + text, add_special_tokens=False)["input_ids"]
    apart = gpt2("<|embed|>\n", add_special_tokens=False)["input_ids"]
    apart += gpt2(text, add_special_tokens=False)["input_ids"]
    assert joint != apart, "no merge crosses here, the test shows nothing"
    assert encoded.ids.tolist() == [gpt2.bos_token_id, *joint]
    assert encode(gpt2, "", "Hello world").ids.tolist()[-2:] == [15496, 995]
    # The release, GritLM and sentence-transformers leave out as many tokens as the prompt by itself has.
    before = len(gpt2("<|embed|>\n", add_special_tokens=False)["input_ids"])
    assert encoded.prefix_tokens == 1 + before
    assert gpt2.decode(encoded.ids[encoded.prefix_tokens :]) == "\nHello world"
    assert encode(gpt2, "", "\n").prefix_tokens == len(encode(gpt2, "", "\n").ids)
