"""Scenes: a few people, each at a place and with a thing, told in a few sentences."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from llm.data.text.dialogues.library import library
from llm.data.text.stories import tell
from llm.data.text.stories.cast import Draw, pick, pronouns

MOST_FRUIT = 12


@dataclass(frozen=True)
class Person:
    """A person in a scene, who has a toy with a `color` or a `count` of fruit; `noun` is "ball" or "apples"."""

    name: str
    is_girl: bool
    place: str
    noun: str
    color: str = ""
    count: int = 0

    @property
    def kind(self) -> str:
        return "fruit" if self.count else "toy"

    @property
    def things(self) -> str:
        return f"{self.count} {self.noun}" if self.count else f"{self.color} {self.noun}"

    @cached_property
    def roles(self) -> dict[str, str]:
        """The values for the slots of sentences and wordings."""
        noun = {"fruit": self.noun, "count": str(self.count)} if self.count else {"toy": self.noun, "color": self.color}
        return noun | {"Name": self.name, "in_place": self.place} | pronouns("", self.is_girl)


@dataclass(frozen=True)
class Scene:
    """One to three people, in the order in which `text` tells of them, and people and things that do not occur."""

    people: tuple[Person, ...]
    absent: tuple[Person, ...]
    text: str


def draw_scene(draw: Draw) -> Scene:
    """A scene in which no name, place, noun, color or count occurs twice."""
    drawn = draw_people(5, draw)
    people = drawn[: choose_count(draw())]
    return Scene(tuple(people), tuple(drawn[3:]), tell_scene(people, draw))


def choose_count(number: float) -> int:
    """How many people a scene has, from a number in [0, 1)."""
    return 1 if number < 0.15 else 2 if number < 0.6 else 3


def draw_people(count: int, draw: Draw) -> list[Person]:
    """People who differ in everything."""
    words = library().words
    people: list[Person] = []
    names, places, nouns, colors, counts = (set[str]() for _ in range(5))
    for _ in range(count):
        is_girl = draw() < 0.5
        name = draw_new(words["girls" if is_girl else "boys"], names, draw)
        place = draw_new(words["places"], places, draw)
        if draw() < 0.35:
            number = draw_new([str(n) for n in range(2, MOST_FRUIT + 1)], counts, draw)
            people.append(Person(name, is_girl, place, draw_new(words["fruits"], nouns, draw), count=int(number)))
        else:
            color = draw_new(words["colors"], colors, draw)
            people.append(Person(name, is_girl, place, draw_new(words["toys"], nouns, draw), color=color))
    return people


def draw_new(items: tuple[str, ...] | list[str], used: set[str], draw: Draw) -> str:
    """One of the items that was not used before."""
    item = pick([item for item in items if item not in used], draw)
    used.add(item)
    return item


def tell_scene(people: list[Person], draw: Draw) -> str:
    """The text of a scene: person by person, or first all places and then all things."""
    sentences: list[str] = []
    if draw() < 0.3:
        words = library().words
        time = {"weather": pick(words["weathers"], draw), "season": pick(words["seasons"], draw)}
        sentences.append(tell_sentence("opening", time, draw))
    if draw() < 0.3:
        sentences += [tell_sentence("place", person.roles, draw) for person in people]
        sentences += [tell_sentence(person.kind, person.roles, draw) for person in people]
    else:
        for person in people:
            sentences += tell_person(person, draw)
    if draw() < 0.2:
        sentences.append(tell_sentence("ending", {}, draw))
    return " ".join(sentences)


def tell_person(person: Person, draw: Draw) -> list[str]:
    """Where a person was and with what, in either order."""
    sentences = [tell_sentence(name, person.roles, draw) for name in ("place", person.kind)]
    return sentences if draw() < 0.5 else sentences[::-1]


def tell_sentence(name: str, roles: dict[str, str], draw: Draw) -> str:
    """One of the sentences of a set."""
    return tell((library().sentences[name],), roles, draw)
