"""Meanings of utterances as text: STOP's bracketed parses, and SLURP's annotations in the same brackets.

A parse is a tree: `[IN:GET_WEATHER what is the weather [SL:DATE_TIME tomorrow ] ]`. Each bracket opens a node with
its label (`IN:` intents, `SL:` slots), closes it alone, and all else are words of the utterance. Tokens are separated
by white space (Tomasello et al. 2022, STOP; Gupta et al. 2018, TOP).

SLURP (Bastianelli et al. 2020) has one intent (scenario and action) and a flat list of entities, which become
`[IN:calendar_set [SL:event_name meeting ] [SL:date tomorrow ] ]`: so both corpora train the same task.
"""

import itertools
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Optional, Union

from fairseq_prune.text.lines import read_lines

INTENT, SLOT = "IN:", "SL:"


@dataclass
class Node:
    """A node of a parse; ``children`` are words and nodes, in the order of the utterance."""

    label: str
    children: list[Union[str, "Node"]] = field(default_factory=list)

    def __str__(self) -> str:
        return " ".join([f"[{self.label}", *map(str, self.children), "]"])

    def nodes(self) -> Iterator["Node"]:
        """This node and all below it, in the order of their opening brackets."""
        yield self
        for child in self.children:
            if isinstance(child, Node):
                yield from child.nodes()

    def words(self) -> list[str]:
        """All words of this node and those below it."""
        return [
            word
            for child in self.children
            for word in (child.words() if isinstance(child, Node) else [child])
        ]

    def to_dict(self) -> dict[str, Any]:
        """For JSON: an intent has ``slots``, a slot its words as ``value``, and ``intents`` where it holds some."""
        name = self.label.partition(":")[2]
        below = [child for child in self.children if isinstance(child, Node)]
        slots = [child.to_dict() for child in below if child.label.startswith(SLOT)]
        intents = [child.to_dict() for child in below if child.label.startswith(INTENT)]
        if self.label.startswith(INTENT):
            return {"intent": name, "slots": slots, **({"intents": intents} if intents else {})}
        found = {"slot": name, "value": " ".join(self.words())}
        return {**found, **({"intents": intents} if intents else {}), **({"slots": slots} if slots else {})}

    def without_words(self) -> "Node":
        """The tree of labels alone."""
        return Node(self.label, [child.without_words() for child in self.children if isinstance(child, Node)])


def parse(text: str) -> Node:
    """Read a bracketed parse; ``str`` of the node gives the text back, with single spaces.

    Raises:
        ValueError: says what is wrong, and at which token (the first is 1).
    """
    root: Optional[Node] = None
    open_nodes: list[Node] = []
    for place, token in enumerate(text.split(), start=1):
        where = f"malformed parse, token {place} ({token!r}) of {text!r}"
        if root is not None and not open_nodes:
            raise ValueError(f"{where}: expected the end after the last bracket has closed")
        if token == "]":
            if not open_nodes:
                raise ValueError(f"{where}: closes a bracket that is not open")
            open_nodes.pop()
        elif token.startswith("["):
            node = Node(token[1:])
            if not token.startswith((f"[{INTENT}", f"[{SLOT}")) or len(token) == len(f"[{INTENT}"):
                raise ValueError(f"{where}: expected a label [IN:... or [SL:...")
            if open_nodes:
                open_nodes[-1].children.append(node)
            else:
                root = node
            open_nodes.append(node)
        elif "[" in token or "]" in token:
            raise ValueError(f"{where}: a bracket within a word")
        elif not open_nodes:
            raise ValueError(f"{where}: a word outside of all brackets")
        else:
            open_nodes[-1].children.append(token)
    if root is None:
        raise ValueError(f"malformed parse {text!r}: expected [IN:..., found no token")
    if open_nodes:
        raise ValueError(f"malformed parse {text!r}: [{open_nodes[-1].label} is not closed")
    return root


def labels(parses: Iterable[Node]) -> list[str]:
    """The opening brackets that occur, ``[IN:...`` and ``[SL:...``, sorted: the new tokens of a vocabulary."""
    return sorted({f"[{node.label}" for tree in parses for node in tree.nodes()})


class Meaning(NamedTuple):
    """SLURP's annotation of an utterance; ``entities`` are (type, filler) in the order of the utterance."""

    scenario: str
    action: str
    entities: tuple[tuple[str, str], ...] = ()

    @property
    def intent(self) -> str:
        """``scenario_action``, which is what SLURP scores."""
        return f"{self.scenario}_{self.action}"

    def to_parse(self) -> Node:
        """The meaning as a parse; `Meaning.from_parse` is the inverse.

        Raises:
            ValueError: a name or filler cannot be written: it is empty, or has a bracket or, where that is lost,
                white space or (in the scenario) an underscore.
        """
        for what, name in (("scenario", self.scenario), ("action", self.action)):
            if len(name.split()) != 1 or "[" in name or "]" in name or (what == "scenario" and "_" in name):
                raise ValueError(f"SLURP {what} {name!r} cannot be written in a parse")
        slots = []
        for kind, filler in self.entities:
            if len(kind.split()) != 1 or any(mark in kind + filler for mark in "[]") or not filler.split():
                raise ValueError(f"SLURP entity {kind!r} with filler {filler!r} cannot be written in a parse")
            slots.append(Node(SLOT + kind, list(filler.split())))
        return Node(INTENT + self.intent, slots)

    @classmethod
    def from_parse(cls, tree: Node) -> "Meaning":
        """The meaning that a parse says; words outside of slots are no part of it.

        Raises:
            ValueError: the parse is none of SLURP: its root is no intent ``scenario_action``, or slots are nested.
        """
        scenario, _, action = tree.label[len(INTENT) :].partition("_")
        if not tree.label.startswith(INTENT) or not scenario or not action:
            raise ValueError(f"expected an intent [IN:scenario_action, found [{tree.label}")
        slots = [child for child in tree.children if isinstance(child, Node)]
        for slot in slots:
            words = [child for child in slot.children if isinstance(child, str)]
            if not slot.label.startswith(SLOT) or len(words) != len(slot.children) or not words:
                raise ValueError(f"expected a slot [SL:type with words alone, found {str(slot)!r}")
        return cls(
            scenario,
            action,
            tuple((slot.label[len(SLOT) :], " ".join(slot.words())) for slot in slots),
        )

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> "Meaning":
        """The meaning of an entry of SLURP's jsonl files, gold or predicted.

        Gold entities have a ``span`` of tokens, predicted ones a ``filler``. As in the published evaluation, tokens of
        the gold side become lower-case, and predicted fillers stay as they are: a capital in one is an error.

        Raises:
            ValueError: a key is missing or has no text, or a span leaves the sentence.
        """
        try:
            entities = tuple((entity["type"], _filler(entity, row)) for entity in row["entities"])
            names = [row["scenario"], row["action"], *itertools.chain(*entities)]
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"no SLURP annotation: {type(error).__name__} {error}") from None
        wrong = [name for name in names if not isinstance(name, str)]
        if wrong:
            raise ValueError(f"no SLURP annotation: expected names and fillers as text, found {wrong[0]!r}")
        return cls(row["scenario"], row["action"], entities)

    def to_row(self) -> dict[str, Any]:
        """What SLURP's predictions hold of an utterance."""
        entities = [{"type": kind, "filler": filler} for kind, filler in self.entities]
        return {"scenario": self.scenario, "action": self.action, "entities": entities}


def parse_slurp(line: str) -> tuple[dict[str, Any], Meaning]:
    """An entry of a jsonl file of SLURP: the row, and what it means.

    Raises:
        ValueError: says what is wrong with it.
    """
    row = json.loads(line)
    if not isinstance(row, dict):
        raise ValueError(f"expected a JSON object, found {line.strip()[:40]!r}")
    return row, Meaning.from_row(row)


def _filler(entity: dict[str, Any], row: dict[str, Any]) -> Any:
    """The words of an entity of SLURP's rows."""
    if "filler" in entity:
        return entity["filler"]
    tokens = row["tokens"]
    outside = [place for place in entity["span"] if not 0 <= place < len(tokens)]
    if outside:
        raise ValueError(
            f"no SLURP annotation: a span has token {outside[0]}, the sentence has 0 to {len(tokens) - 1}"
        )
    return " ".join(tokens[place]["surface"].lower() for place in entity["span"])


def read_slurp(path) -> Iterator[tuple[str, dict[str, Any], Meaning]]:
    """The entries of a jsonl file of SLURP: (where it stands, for errors; the row; what it means).

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: names the file, the line and what is wrong with it.
    """
    for number, line in enumerate(read_lines(path), start=1):
        where = f"{path}, line {number}"
        try:
            row, meaning = parse_slurp(line)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
        yield where, row, meaning
