"""The roles of a story (characters, places, things), and all forms in which a text may name them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

Words: TypeAlias = "Mapping[str, Sequence[str]]"
Draw: TypeAlias = "Callable[[], float]"

HE = {"he": "he", "him": "him", "his": "his", "himself": "himself"}
SHE = {"he": "she", "him": "her", "his": "her", "himself": "herself"}
WOMEN = frozenset({"mother", "grandma", "aunt"})
# role -> the word list it is drawn from, unless the story narrows it
SIMPLE_ROLES = {
    "trait": "traits",
    "color": "colors",
    "toy": "toys",
    "treasure": "treasures",
    "animal": "animals",
    "pet": "pets",
    "food": "foods",
    "fruit": "fruits",
    "flower": "flowers",
    "elder": "elders",
    "weather": "weathers",
    "season": "seasons",
    "place": "any_places",
}
CHILD_SHARE = 0.65  # of the heroes of stories for both children and animals


def draw_roles(words: Words, narrowed: Words, draw: Draw) -> dict[str, str]:
    """A value for every role of a story, and its forms: {he} {him} {his} {himself}, with the prefix f for the friend
    and e for the elder; {in_place} {to_place} {by_place}; capitalized as {He} and so on."""
    kind_of_hero = (narrowed.get("hero") or ("any",))[0]
    is_child = kind_of_hero == "child" or (kind_of_hero == "any" and draw() < CHILD_SHARE)
    hero_is_girl = draw() < 0.5
    roles: dict[str, str] = {}
    roles["Name"], roles["kind"] = draw_person(words, is_child, hero_is_girl, "", draw)
    # The friend has the other gender, so that pronouns are unambiguous.
    roles["Friend"], roles["fkind"] = draw_person(words, is_child, not hero_is_girl, roles["kind"], draw)
    for role, source in SIMPLE_ROLES.items():
        roles[role] = pick(narrowed.get(role) or words[source], draw, other_than=roles["kind"])
    roles["color2"] = pick(words["colors"], draw, other_than=roles["color"])
    roles |= pronouns("", hero_is_girl) | pronouns("f", not hero_is_girl)
    roles |= pronouns("e", roles["elder"] in WOMEN)
    roles |= place_forms(words["places"], roles["place"])
    roles["foods"] = plural(roles["food"])
    return roles


def draw_person(words: Words, is_child: bool, is_girl: bool, other_kind: str, draw: Draw) -> tuple[str, str]:
    """A name and a kind: a girl, a boy, or an animal of a kind other than `other_kind`."""
    if is_child:
        return pick(words["girls" if is_girl else "boys"], draw), "girl" if is_girl else "boy"
    kind = pick(words["kinds"], draw, other_than=other_kind)
    return pick(words["she_animals" if is_girl else "he_animals"], draw), kind


def pronouns(prefix: str, is_female: bool) -> dict[str, str]:
    """{he}, {He}, … of one character; the names begin with `prefix`."""
    forms = {prefix + form: value for form, value in (SHE if is_female else HE).items()}
    return forms | {form.capitalize(): value.capitalize() for form, value in forms.items()}


def place_forms(places: Sequence[str], place: str) -> dict[str, str]:
    """The phrases for being at a place, going to it and being near it."""
    inside = next(phrase for phrase in places if phrase.endswith(" " + place))
    forms = {"in_place": inside, "to_place": f"to the {place}", "by_place": f"by the {place}"}
    return forms | {form.capitalize(): value.capitalize() for form, value in forms.items()}


def plural(noun: str) -> str:
    return noun + ("es" if noun.endswith("ch") else "s")


def pick(items: Sequence[str], draw: Draw, other_than: str = "") -> str:
    """A random item, not `other_than` if there is another."""
    place = int(draw() * len(items))
    return items[place] if items[place] != other_than else items[place - 1]
