"""What documents are made of: nouns, fields, values, verbs and the sentences of a policy."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Final


@dataclass(frozen=True, slots=True)
class Pools:
    names: list[str]
    emails: list[str]
    cities: list[str]
    streets: list[str]
    products: list[str]
    sentences: list[str]


DOMAINS: Final = {
    name: nouns.split()
    for name, nouns in {
        "library": "book loan reader shelf reservation branch",
        "clinic": "patient visit prescription doctor ward referral",
        "fleet": "vehicle trip driver depot route permit",
        "hotel": "room booking guest stay voucher suite",
        "farm": "field harvest animal barn tractor crop",
        "school": "pupil course lesson grade teacher exam",
        "warehouse": "pallet bin crate dock lot rack",
        "museum": "exhibit gallery loan curator tour artefact",
        "airport": "flight gate passenger bag crew slot",
        "bank": "account transfer card branch deposit mandate",
        "gym": "member class coach locker plan session",
        "theatre": "show seat actor stage scene pass",
        "laboratory": "sample assay batch probe result culture",
        "garage": "repair part car mechanic bay estimate",
        "town hall": "permit complaint citizen form office petition",
        "bakery": "loaf oven recipe batch tray bakery",
        "shipyard": "hull crane ship berth engine contract",
        "studio": "track album artist session mix take",
        "newsroom": "article editor draft source photo issue",
        "festival": "band tent pass vendor stage shift",
        "power plant": "turbine meter outage grid crew reading",
        "vet": "pet owner vaccine visit chip cage",
        "court": "case hearing judge file motion witness",
        "cinema": "film screen seat poster show snack",
    }.items()
}
SYLLABLES: Final = "ka ve lor tin mu sha rel do pix an gre bo zu ni tal fer qui os hep wan dri mol".split()
FIELDS: Final = {
    kind: names.split()
    for kind, names in {
        "person": "name owner contact guest driver assignee author keeper manager holder",
        "email": "email mail contact_email",
        "city": "city town site destination origin branch",
        "address": "address shipping_address street home",
        "product": "title label model article subject product",
        "date": "created_on placed_on shipped_on due_on issued_on expected_on delivered_on starts_on ends_on "
        "expires_on opened_on date",
        "amount": "total amount price unit_price fee balance credit_balance cost deposit budget paid_amount",
        "int": "quantity stock seats floor count weight score capacity points days",
        "enum": "status tier priority category stage level colour size reason carrier kind state",
        "code": "tracking_number code phone sku serial",
        "bool": "active paid locked verified refunded urgent",
        "text": "text remark message body",
    }.items()
}
ENUMS: Final = [
    tuple(values.split())
    for values in (
        "pending paid packed shipped delivered cancelled returned",
        "in_transit delivered lost out_for_delivery",
        "open pending closed resolved",
        "low normal high urgent",
        "standard silver gold",
        "active suspended closed",
        "open paid overdue void",
        "changed_mind damaged late wrong_item goodwill",
        "red green blue white black",
        "small medium large",
        "draft review final",
        "new used broken",
        "free taken blocked",
        "north south east west",
        "waiting running done failed",
        "electronics kitchen garden toys books",
    )
]
WRITES: Final[dict[str, str]] = dict(
    pair.split(":")
    for pair in (
        "cancel:cancelled close:closed open:opened release:released renew:renewed lock:locked archive:archived "
        "approve:approved return:returned reject:rejected restore:restored flag:flagged extend:extended "
        "reserve:reserved delete:deleted start:started stop:stopped confirm:confirmed pause:paused "
        "publish:published refund:refunded issue:issued track:tracked update:updated send:sent clear:cleared"
    ).split()
)
READS: Final = ("get", "find", "fetch", "show", "read", "view", "look_up", "check")
LISTS: Final = ("list", "search", "browse", "query")
POLICY: Final = (
    "Be brief.", "Use the tools.", "Never guess an id.", "One call at a time.", "Read before you write.",
    "Answer with facts.", "Do what is asked, no more.", "Ask when a value is missing.", "Take the shortest way.",
    "Copy ids exactly.", "Do not change what was not asked.", "Stop when the request is met.",
)  # fmt: skip
DONE: Final = ("It is done.", "The change is made.", "The result confirms it.", "Nothing is left to do.")
TOLD: Final = ("The look-up tells it.", "The result says it.", "The record shows it.", "That is what was asked.")


@cache
def pools() -> Pools:
    from faker import Faker

    names, emails, cities, streets = [], [], [], []
    for number, locale in enumerate(("en_US", "en_GB", "de_DE", "fr_FR", "es_ES", "sv_SE", "pl_PL", "da_DK", "nl_NL")):
        fake = Faker(locale)
        fake.seed_instance(number)
        for _ in range(900 if locale == "en_US" else 260):
            names.append(f"{fake.first_name()} {fake.last_name()}")
            emails.append(fake.email())
            cities.append(fake.city())
            streets.append(fake.street_address().replace("\n", ", "))
    fake = Faker("en_US")
    fake.seed_instance(99)
    adjectives = (
        "Compact Steel Wooden Wireless Classic Soft Heavy Mini Smart Folding Solar Green Oak Travel Deluxe"
    ).split()
    things = (
        "Lamp Kettle Chair Desk Mug Bottle Backpack Speaker Headphones Blender Toaster Rug Clock Mirror Notebook Tent "
        "Keyboard Monitor Jacket Scarf Hammer Drill Pan Knife Bowl Puzzle Camera Charger Router Shelf Pillow Fan"
    ).split()
    products = [f"{adjective} {thing}" for adjective in adjectives for thing in things]
    sentences = [fake.sentence(nb_words=number % 6 + 3) for number in range(800)]
    return Pools(names, emails, cities, streets, products, sentences)
