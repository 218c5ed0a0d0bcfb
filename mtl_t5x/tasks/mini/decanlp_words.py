"""The words of the embedded DecaNLP that `mini_lexicon` lacks, as data."""

from __future__ import annotations

# English concept and its German, of four of the lexicon's topics: nouns with their article,
# verbs as participles.
_GERMAN = (
    "chef der Koch | baker der Bäcker | waiter der Kellner | prepare gekocht | taste gekostet"
    " | order bestellt | serve serviert | soup die Suppe | cake der Kuchen | salad der Salat"
    " | dessert der Nachtisch | kitchen die Küche | restaurant das Lokal",
    "teacher der Lehrer | student der Schüler | writer der Autor | explain erklärt | copy kopiert"
    " | finish beendet | discuss besprochen | story die Geschichte | lesson die Lektion"
    " | poem das Gedicht | book das Buch | school die Schule | library die Bücherei",
    "farmer der Bauer | shepherd der Schäfer | rider der Reiter | guard bewacht | chase gejagt"
    " | feed gefüttert | brush gebürstet | horse das Pferd | cow die Kuh | dog der Hund"
    " | rabbit das Kaninchen | barn die Scheune | field das Feld",
    "lawyer der Anwalt | manager der Leiter | clerk der Schreiber | review geprüft"
    " | approve gebilligt | sign signiert | send gesendet | contract der Vertrag"
    " | report der Bericht | plan der Plan | file die Akte | office das Büro | bank die Bank",
)  # fmt: skip
GERMAN = {
    english: german
    for line in _GERMAN
    for english, german in (pair.strip().split(" ", 1) for pair in line.split("|"))
}
GERMAN_TOPICS = ("kitchen", "school", "farm", "office")
GERMAN_TIMES = {
    "yesterday": "gestern",
    "on Monday": "am Montag",
    "on Friday": "am Freitag",
    "at noon": "am Mittag",
    "at night": "nachts",
    "last week": "letzte Woche",
    "last year": "letztes Jahr",
}
ACCUSATIVE = {"der": "den", "die": "die", "das": "das"}
DATIVE = {"der": "dem", "die": "der", "das": "dem"}

CONTAINERS = ("box", "bag", "case", "drawer")
# Context, question, the adjectives that mean the first noun, those that mean the second.
SCHEMAS = (
    (
        "The {0} does not fit in the {1} because it is too {2}.",
        "What is too {2}?",
        ("big", "large"),
        ("small", "little"),
    ),
    (
        "The {0} could not lift the {1} because he was too {2}.",
        "Who was too {2}?",
        ("weak", "short"),
        ("heavy", "tall"),
    ),
    (
        "The {0} passed the {1} because she was {2}.",
        "Who was {2}?",
        ("fast", "young"),
        ("slow", "tired"),
    ),
    (
        "The {0} asked the {1} for help because he was {2}.",
        "Who was {2}?",
        ("poor", "sad"),
        ("rich", "kind"),
    ),
)

DAYS = ("Monday", "Tuesday", "Friday", "Sunday")
SLOTS = {
    "food": ("chinese", "indian", "italian", "thai", "french", "turkish"),
    "area": ("north", "south", "east", "west", "centre"),
    "price range": ("cheap", "moderate", "expensive"),
}
# From the slots that a turn tells, in this order, to how it tells them.
TURNS = {
    ("food",): ("I would like {} food.", "Do you have {} food?", "{} food please."),
    ("area",): ("Somewhere in the {} please.", "It should be in the {}."),
    ("price range",): ("I want a {} place.", "It should be {}."),
    ("food", "area"): ("I want {} food in the {}.", "Is there {} food in the {}?"),
    ("price range", "area"): ("I want a {} place in the {}.", "A {} restaurant in the {} please."),
    ("price range", "food"): ("A {} place with {} food.", "I want a {} place with {} food."),
}
REQUESTS = ("address", "phone", "postcode")
GOODBYES = ("Thank you, good bye.", "Thanks, that is all.", "Great, thank you.")
