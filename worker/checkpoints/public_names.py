"""One name for each tensor, whoever saved it: openpi's, which follow transformers from 4.52 on.

LeRobot puts `model.` before them, and its older files have the modules of older transformers.
"""

_PALIGEMMA = "paligemma_with_expert.paligemma."
EMBEDDING_NAME = f"{_PALIGEMMA}lm_head.weight"
"""The text embedding, which is also the (tied) head."""
# The embedding may be stored as the head, under this name, or as both.
_EMBED_TOKENS = f"{_PALIGEMMA}model.language_model.embed_tokens.weight"
_OLDER = {
    f"{_PALIGEMMA}language_model.lm_head.": f"{_PALIGEMMA}lm_head.",
    f"{_PALIGEMMA}language_model.model.": f"{_PALIGEMMA}model.language_model.",
    f"{_PALIGEMMA}vision_tower.": f"{_PALIGEMMA}model.vision_tower.",
    f"{_PALIGEMMA}multi_modal_projector.": f"{_PALIGEMMA}model.multi_modal_projector.",
}


def public_name(stored: str) -> str:
    """The one name that the tensor `stored` has here."""
    name = stored.removeprefix("model.")
    for older, newer in _OLDER.items():
        if name.startswith(older):
            name = newer + name.removeprefix(older)
    return EMBEDDING_NAME if name == _EMBED_TOKENS else name
