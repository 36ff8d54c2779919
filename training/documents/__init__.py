"""An endless, seeded stream of documents from which a base model learns to use tools it has never seen.

Every document draws its own world: a domain, nouns, tool names, argument and field names, alias letters,
persons and a policy. None of the shipped tools occurs, so a model cannot learn them by heart; it has to read
the tool list, match it with the request, and copy values. What is taught, family by family: look-ups and
chains of look-ups, picking a row of a list, acting on every row that matches, writing several values in one
call, deciding by a limit or a status, repairing an error, asking back and refusing, and bare copying drills.

Where an assistant's turn repeats a value from its context, the document says so (``Document.copies``), so that
copying can be measured by kind. What this omits: free conversation, long texts, arithmetic.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from random import Random
from typing import Final

from toolenv.training.documents.author import COPY_KINDS, Author, Document
from toolenv.training.documents.drills import DRILLS
from toolenv.training.documents.episodes import EPISODES

__all__ = ["COPY_KINDS", "FAMILIES", "Document", "documents"]

FAMILIES: Final = (*EPISODES, *DRILLS)


def documents(seed: int, *, drills: float = 0.3, without: Collection[str] = ()) -> Iterator[Document]:
    """Yields documents without end; the same seed gives the same documents (for one version of Faker).

    Args:
        seed: decides everything.
        drills: share of documents that are bare copying drills, between 0 and 1.
        without: families to leave out.

    Raises:
        ValueError: `drills` is not a share.
    """
    if not 0 <= drills <= 1:
        raise ValueError(f"drills is a share between 0 and 1, not {drills}")
    rng = Random(seed)
    kinds = [{name: its for name, its in table.items() if name not in without} for table in (EPISODES, DRILLS)]
    while True:
        table = kinds[rng.random() < drills]
        (family,) = rng.choices(list(table), [weight for _, weight in table.values()])
        author = Author(rng)
        table[family][0](author)
        yield author.finish(family)
