"""The scenarios of nano-gsm: a calculation and the wordings that ask for it.

``program`` is a list of steps over the scenario's numbers: lower-case letters are small numbers,
``A`` is a larger one, p, q, r are the results of the steps, digits stand for themselves.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Scenario:
    program: str
    texts: tuple[str, ...]

    @property
    def letters(self) -> str:
        """The numbers the wordings need, in alphabetical order."""
        return "".join(sorted({c for c in self.program if c in "abcdA"}))


NAMES = (
    "Tom", "Ann", "Ben", "Eva", "Sam", "Mia", "Leo", "Amy", "Max", "Zoe", "Dan", "Ida",
    "Jack", "Lucy", "Omar", "Nina", "Paul", "Rosa", "Hugo", "Vera", "Carl", "Emma", "Ravi", "Yuki",
)  # fmt: skip
OBJECTS = (
    "apples", "pears", "plums", "nuts", "eggs", "books", "pens", "cards", "coins", "stamps", "shells",
    "beads", "balls", "toys", "cups", "plates", "stones", "keys", "roses", "cakes", "buns", "figs", "kites",
    "maps",
)  # fmt: skip

SCENARIOS: tuple[Scenario, ...] = (
    Scenario("a+b p-c", (
        "{n} has {a} {o}. {n} gets {b} more and gives away {c}. How many {o} are left?",
        "A bus has {a} people. Then {b} get on and {c} get off. How many people are on the bus?",
        "{n} finds {a} {o} and {m} finds {b}. They lose {c} of them. How many {o} are left?",
    )),
    Scenario("A-b p+c", (
        "{n} has {A} {o}. {n} sells {b} and then buys {c}. How many {o} does {n} have now?",
        "A shelf holds {A} {o}. {n} takes {b} and {m} puts back {c}. How many {o} are on the shelf?",
    )),
    Scenario("a+b p+c", (
        "{n} has {a} {o}, {m} has {b} and {k} has {c}. How many {o} do they have in all?",
        "{n} walks {a} miles on Monday, {b} on Tuesday and {c} on Friday. How many miles is that?",
    )),
    Scenario("a*b p+c", (
        "{n} buys {a} bags of {b} {o} and finds {c} more. How many {o} does {n} have?",
        "{n} reads {b} pages a day for {a} days and then {c} more. How many pages does {n} read?",
    )),
    Scenario("a*b p-c", (
        "{n} has {a} boxes with {b} {o} each and gives away {c}. How many {o} are left?",
        "There are {a} rows of {b} trees. Then {c} trees fall. How many trees still stand?",
    )),
    Scenario("a*b A-p", (
        "{n} buys {a} {o} for {b} dollars each and pays with {A} dollars. How much change does {n} get?",
        "{n} needs {A} {o} and has {a} bags of {b}. How many more {o} does {n} need?",
    )),
    Scenario("a*b c*d p+q", (
        "{n} buys {a} bags of {b} {o} and {c} boxes of {d} {o}. How many {o} does {n} buy?",
        "{n} works {a} days for {b} dollars and {c} days for {d} dollars. How much does {n} earn?",
    )),
    Scenario("a+b a+p", (
        "{n} has {a} {o}. {m} has {b} more than {n}. How many {o} do they have together?",
        "A cup costs {a} dollars and a plate {b} dollars more. How much do both cost?",
    )),
    Scenario("a*b a+p", (
        "{n} has {a} {o}. {m} has {b} times as many. How many {o} do they have together?",
        "A pen costs {a} dollars and a bag {b} times as much. How much do both cost?",
    )),
    Scenario("A-b A+p", (
        "{n} has {A} {o}. {m} has {b} fewer than {n}. How many {o} do they have together?",
    )),
    Scenario("A/b p-c", (
        "{n} shares {A} {o} equally among {b} kids. Each kid loses {c}. How many {o} has each kid left?",
    )),
    Scenario("A/b p+c", (
        "{b} kids share {A} {o} equally. {n} is one of them and finds {c} more. How many {o} has {n}?",
        "{n} puts {A} {o} into {b} equal bags and adds {c} to each bag. How many {o} are in a bag?",
    )),
    Scenario("a+b p/c", (
        "{n} has {a} {o} and {m} has {b}. They put them equally into {c} bags. How many {o} are in a bag?",
    )),
    Scenario("a+b p*c", (
        "{n} bakes {a} buns and {m} bakes {b} buns a day. How many buns do they bake in {c} days?",
        "Each of {c} boxes holds {a} red and {b} blue {o}. How many {o} are there?",
    )),
    Scenario("a-b p*c", (
        "{n} earns {a} dollars a day and spends {b} of them. How much does {n} save in {c} days?",
        "{n} buys {c} {o}. Each costs {a} dollars, but {b} dollars less today. How much does {n} pay?",
    )),
    Scenario("a*b p/c", (
        "{a} boxes of {b} {o} are shared equally by {c} kids. How many {o} does each kid get?",
    )),
    Scenario("a+b 2*p", (
        "A garden is {a} feet wide and {b} feet long. How long is the fence around it?",
        "{n} has {a} {o} and {m} has {b}. {k} has twice as many as both. How many {o} has {k}?",
    )),
    Scenario("A/2 p+c", (
        "{n} gives half of {A} {o} to {m} and then finds {c}. How many {o} does {n} have?",
    )),
    Scenario("A/2 p-c", (
        "{n} sells half of {A} {o} and loses {c} more. How many {o} are left?",
    )),
    Scenario("a+b p+c q-d", (
        "{n} has {a} {o}, finds {b}, buys {c} and gives away {d}. How many {o} are left?",
        "A train has {a} people. Then {b} get on, {c} more get on and {d} get off. How many are on it?",
    )),
    Scenario("a*b p+c q-d", (
        "{n} has {a} bags of {b} {o}, finds {c} and loses {d}. How many {o} are left?",
    )),
    Scenario("A-b p-c", (
        "{n} has {A} {o}. {n} eats {b} on Monday and {c} on Tuesday. How many {o} are left?",
        "A rope is {A} feet long. {n} cuts off {b} feet and {m} cuts off {c}. How long is it now?",
    )),
    Scenario("b+c A-p", (
        "{n} has {A} dollars and buys a cap for {b} and a toy for {c}. How much money is left?",
        "There are {A} {o}: {b} are red, {c} are blue and the rest green. How many {o} are green?",
    )),
    Scenario("a+b c+d p-q", (
        "{n} scores {a} and {b} points. {m} scores {c} and {d}. By how many points does {n} win?",
    )),
    Scenario("A-b p/c", (
        "{n} has {A} {o}, keeps {b} and shares the rest equally among {c} kids. How many {o} gets each kid?",
    )),
    Scenario("a+b p*c q-d", (
        "{n} picks {a} red and {b} green {o} a day for {c} days and loses {d}. How many {o} are left?",
    )),
)  # fmt: skip
