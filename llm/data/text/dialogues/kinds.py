"""The kinds of questions: what each asks about a scene, about numbers or about the world, and the one right answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from llm.data.text.dialogues.library import library
from llm.data.text.dialogues.scene import Person, Scene
from llm.data.text.stories.cast import HE, SHE, Draw

KINDS = ("who", "what", "where", "color", "count", "sum", "fact", "follow-up", "refusal")
REFUSAL = "I am sorry, I do not know."
LARGEST_SUM = 20
STORY_SHARE = 0.1

T = TypeVar("T")


@dataclass(frozen=True)
class Ask:
    """One question. `wording` names the set of its wordings, `roles` fills their slots. `answer` is the sentence a
    model learns, `short` the answer alone. `about` is the person that a follow-up calls {he}, or whose thing it calls
    "it"."""

    kind: str
    wording: str
    roles: Mapping[str, str]
    answer: str
    short: str = ""
    about: Person | None = field(default=None, compare=False)


def ask_person(person: Person) -> list[Ask]:
    """All questions about one person of a scene."""
    roles, name = person.roles, person.name
    asks = [
        Ask("who", f"who {person.kind}", roles, f"The one with the {person.noun} was {name}.", name, person),
        Ask("who", "who place", roles, f"The one {person.place} was {name}.", name, person),
        Ask("what", "what", roles, f"{name} had {with_article(person.things)}.", person.things, person),
        Ask("where", "where", roles, f"{name} was {person.place}.", person.place, person),
    ]
    if person.count:
        count = str(person.count)
        return [*asks, Ask("count", "count", roles, f"The number of {person.noun} was {count}.", count, person)]
    return [*asks, Ask("color", "color", roles, f"The {person.noun} was {person.color}.", person.color, person)]


def draw_scene_ask(scene: Scene, draw: Draw) -> Ask:
    """A question that the scene answers."""
    return pick_ask([ask for person in scene.people for ask in ask_person(person)], draw)


def pick_ask(asks: list[Ask], draw: Draw) -> Ask:
    """One of the questions: first a kind, then one of that kind."""
    kind = choose(sorted({ask.kind for ask in asks}), draw)
    return choose([ask for ask in asks if ask.kind == kind], draw)


def choose(items: Sequence[T], draw: Draw) -> T:
    """One of the items."""
    return items[int(draw() * len(items))]


def draw_refusal(scene: Scene | None, draw: Draw) -> Ask:
    """A question that cannot be answered: about a person or thing that does not occur, or that no story mentions."""
    if scene is None or draw() < 0.3:
        words = library().words
        name = choose(scene.people, draw).name if scene is not None else choose(words["girls"] + words["boys"], draw)
        return Ask("refusal", "unknowable", {"Name": name}, REFUSAL)
    ask = pick_ask(ask_person(choose(scene.absent, draw)), draw)
    return Ask("refusal", ask.wording, ask.roles, REFUSAL)


def draw_follow_up(previous: Ask, scene: Scene, draw: Draw) -> Ask | None:
    """A question that only the one before it explains; None after a question that allows none."""
    about = previous.about
    if about is None:
        return None
    pronouns = SHE if about.is_girl else HE
    options = []
    if previous.kind == "who" and previous.wording != "who place":
        options.append(
            Ask("follow-up", "where pronoun", pronouns, f"{about.name} was {about.place}.", about.place, about)
        )
    if previous.kind == "what" and about.color:
        options.append(
            Ask("follow-up", "color pronoun", {}, f"The {about.noun} was {about.color}.", about.color, about)
        )
    others = [person for person in scene.people if person != about]
    if others and previous.wording in ("what", "where"):
        other = choose(others, draw)
        same = next(ask for ask in ask_person(other) if ask.wording == previous.wording)
        options.append(Ask("follow-up", "and who", other.roles, same.answer, same.short, other))
    return choose(options, draw) if options else None


def draw_telling(scene: Scene, draw: Draw) -> Ask:
    """A request to hear the story again, or about some of its people."""
    return Ask("story", "story", {}, scene.text) if draw() < STORY_SHARE else draw_about(scene, draw)


def draw_about(scene: Scene, draw: Draw) -> Ask:
    """A request to hear about some of the people, in random order: each sentence of the answer answers a question."""
    left, chosen = list(scene.people), []
    for _ in range(1 + int(draw() * len(scene.people))):
        chosen.append(left.pop(int(draw() * len(left))))
    *names, last = [person.name for person in chosen]
    told = " ".join(f"{one.name} was {one.place}. {one.name} had {with_article(one.things)}." for one in chosen)
    return Ask("about", "about", {"names": f"{', '.join(names)} and {last}" if names else last}, told)


def draw_sum(draw: Draw) -> Ask:
    """Two numbers from 0 on whose sum is at most 20."""
    total = int(draw() * (LARGEST_SUM + 1))
    a = int(draw() * (total + 1))
    roles = {"a": str(a), "b": str(total - a), "fruit": choose(library().words["fruits"], draw)}
    return Ask("sum", "sum", roles, f"{a} plus {total - a} is {total}.", str(total))


def draw_fact(draw: Draw) -> Ask:
    """A fact about the world."""
    relation = choose((*library().facts, "next"), draw)
    if relation == "next":
        a = int(draw() * LARGEST_SUM)
        return Ask("fact", "next", {"a": str(a)}, f"After {a} comes {a + 1}.", str(a + 1))
    thing, value = choose(library().facts[relation], draw)
    return Ask(
        "fact", relation, {"a": thing, "A": capitalize(thing)}, capitalize(sentence(relation, thing, value)), value
    )


def sentence(relation: str, thing: str, value: str) -> str:
    """The sentence that states a fact."""
    match relation:
        case "sound":
            return f"{thing} says {value}."
        case "thing color":
            return f"{thing} is {value}."
        case "opposite":
            return f"the opposite of {thing} is {value}."
        case "legs":
            return f"{thing} has {value} legs."
        case "young":
            return f"a young {thing} is called {with_article(value)}."
        case _:
            return f"{thing} lives {value}."


def with_article(things: str) -> str:
    """ "a ball", "an owl", and "3 apples" unchanged."""
    if things[0].isdigit():
        return things
    return ("an " if things[0] in "aeiou" else "a ") + things


def capitalize(text: str) -> str:
    return text[:1].upper() + text[1:]
