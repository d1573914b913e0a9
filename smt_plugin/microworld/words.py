"""The words of the microworld: names, values, and the wordings of each attribute.

Each attribute has three banks of wordings. `statements` make articles, rewrites and explanations. `questions`
are what the scripted backend asks. `test_questions` are what the evaluation asks; the scripted backend never
uses them. The base model has met all three in its pretraining, about *other* people and places, as a real
model knows English before it sees the corpus.
"""

from dataclasses import dataclass

FIRST_NAMES = (
    "Ada Basil Cora Dorian Edda Felix Greta Hugo Ines Jasper Kira Leon Mara Nestor Odile Pavel Quilla Rufus "
    "Selma Tobias Una Viktor Wanda Xaver Yara Zeno Alma Bruno Celia Dario Enid Fergus"
).split()
LAST_NAMES = (
    "Abbot Birch Calder Dunmore Ellery Fairfax Garrick Holt Irving Jessop Kemble Lorne Marlow Norwood Orchard "
    "Pembry Quarles Renshaw Stroud Thorne Upton Vance Wexley Yarrow Alcott Bexley Corbin Drummond Eastman "
    "Fenwick Galloway Hartley"
).split()
TOWN_FIRST = (
    "Amber Bramble Cinder Drift Elder Foxglove Gravel Heather Ivory Juniper Kettle Linden Meadow Nettle Otter Pebble "
    "Acorn Birdsong Clover Dapple Ember Fern Ginger Hazel Indigo Jasmine Kingfisher Laurel Marble Noble Orchid Poplar "
    "Quartz Russet Saffron Thistle Umber Velvet Willow Yew"
).split()
TOWN_LAST = (
    "Ford Haven Crossing Hollow Market Bridge Heights Landing Green Gate Wells Mill Bay Cross Dale End Field Grove "
    "Heath Island Junction Knoll Lock Moor Nook Park Quay Ridge Shore Tower Valley Wharf"
).split()

_YEARS = tuple(str(year) for year in range(1811, 1835))
_FOUNDED = tuple(str(year) for year in range(1203, 1227))


@dataclass(frozen=True, slots=True)
class Attribute:
    """One thing that can be said of a person or a place; `{n}` stands for the name, `{v}` for the value."""

    key: str
    kind: str  # "person" or "place"
    values: tuple[str, ...]  # empty for `home`, whose value is a town
    statements: tuple[str, ...]
    questions: tuple[str, ...]
    test_questions: tuple[str, ...]
    clause: str  # says the fact in passing: "Ada Abbot, who plays the harp, ..."


ATTRIBUTES = (
    Attribute(
        "home",
        "person",
        (),
        (
            "{n} lives in {v}.",
            "The home of {n} is in {v}.",
            "{v} is where {n} lives now.",
            "{n} has a house in {v}.",
            "{n} settled in {v} for good.",
            "Letters to {n} must be sent to {v}.",
            "{n} resides in {v}.",
            "Among the people who live in {v} today is {n}.",
        ),
        (
            "Where does {n} live?",
            "In which town is the home of {n}?",
            "Where does {n} have a house?",
            "To which town must letters to {n} be sent?",
            "In which town did {n} settle?",
        ),
        (
            "At what place would you knock on the door of {n} today?",
            "Which town does {n} call home at present?",
            "Where would a visitor find the dwelling of {n}?",
        ),
        "who lives in {v}",
    ),
    Attribute(
        "trade",
        "person",
        tuple(
            (
                "cooper baker mason weaver tailor potter miller tanner glazier saddler printer brewer carpenter "
                "locksmith farrier dyer clockmaker candlemaker bookbinder ropemaker"
            ).split()
        ),
        (
            "{n} works as a {v}.",
            "The trade of {n} is that of a {v}.",
            "{n} earns a living as a {v}.",
            "{n} is a {v} by profession.",
            "{n} runs a shop as a {v}.",
            "By day {n} is busy as a {v}.",
            "{n} learned the craft of a {v}.",
            "Customers know {n} as a skilled {v}.",
        ),
        (
            "What does {n} work as?",
            "What is the trade of {n}?",
            "How does {n} earn a living?",
            "What is the profession of {n}?",
            "What craft did {n} learn?",
        ),
        (
            "Which occupation does {n} follow?",
            "What kind of work keeps {n} in bread?",
            "What job is done by {n}?",
        ),
        "who works as a {v}",
    ),
    Attribute(
        "instrument",
        "person",
        tuple(
            (
                "fiddle harp flute lute drum cello viola horn bassoon zither trumpet piano guitar mandolin "
                "clarinet banjo"
            ).split()
        ),
        (
            "{n} plays the {v}.",
            "In the evening {n} takes out the {v}.",
            "{n} is fond of music and plays the {v}.",
            "The {v} is the instrument of {n}.",
            "{n} has mastered the {v}.",
            "{n} practises the {v} every night.",
            "At feasts {n} is asked to play the {v}.",
            "{n} took lessons on the {v}.",
        ),
        (
            "What does {n} play?",
            "Which instrument does {n} play?",
            "What does {n} practise every night?",
            "Which instrument has {n} mastered?",
            "On what did {n} take lessons?",
        ),
        (
            "With what does {n} make music?",
            "What would {n} bring along to a concert?",
            "Which musical sound belongs to {n}?",
        ),
        "who plays the {v}",
    ),
    Attribute(
        "animal",
        "person",
        tuple(
            (
                "goat raven ferret donkey parrot hedgehog tortoise falcon beagle pony rabbit magpie lynx badger "
                "squirrel peacock"
            ).split()
        ),
        (
            "{n} keeps a {v}.",
            "A {v} shares the house with {n}.",
            "{n} owns a tame {v}.",
            "{n} is often seen with a {v}.",
            "The pet of {n} is a {v}.",
            "{n} feeds a {v} every morning.",
            "{n} raised a young {v}.",
            "A {v} follows {n} everywhere.",
        ),
        (
            "What pet does {n} keep?",
            "Which animal shares the house with {n}?",
            "What does {n} feed every morning?",
            "Which animal follows {n} everywhere?",
            "What tame animal does {n} own?",
        ),
        (
            "Which creature is the companion of {n}?",
            "What beast is cared for by {n}?",
            "Which living thing would you meet beside {n}?",
        ),
        "who keeps a {v}",
    ),
    Attribute(
        "dish",
        "person",
        tuple(
            (
                "pancakes porridge chowder goulash risotto dumplings lentils noodles omelette meatballs ravioli "
                "waffles polenta stew sausages strudel"
            ).split()
        ),
        (
            "{n} likes to eat {v}.",
            "The favourite dish of {n} is {v}.",
            "{n} cooks {v} for every guest.",
            "{n} never says no to {v}.",
            "The table of {n} is never without {v}.",
            "{n} loves {v} above all other food.",
            "On Sundays {n} prepares {v}.",
            "{n} orders {v} at every inn.",
        ),
        (
            "What is the favourite dish of {n}?",
            "What does {n} like to eat?",
            "What does {n} cook for every guest?",
            "What does {n} order at every inn?",
            "What food does {n} love above all other?",
        ),
        (
            "Which meal would make {n} happy?",
            "What should be served when {n} is hungry?",
            "With what would you fill the plate of {n}?",
        ),
        "who likes to eat {v}",
    ),
    Attribute(
        "born",
        "person",
        _YEARS,
        (
            "{n} was born in the year {v}.",
            "The year of birth of {n} is {v}.",
            "{n} has been alive since {v}.",
            "The life of {n} began in {v}.",
            "{v} was the year in which {n} was born.",
            "{n} came into the world in the year {v}.",
            "The register gives {v} as the year of birth of {n}.",
            "{n} celebrates a birthday that goes back to {v}.",
        ),
        (
            "When was {n} born?",
            "In which year was {n} born?",
            "What is the year of birth of {n}?",
            "In which year did the life of {n} begin?",
            "Which year does the register give for the birth of {n}?",
        ),
        (
            "From which year on must one count the age of {n}?",
            "What date belongs to the first day of {n}?",
            "In what year was {n} a newborn?",
        ),
        "who was born in the year {v}",
    ),
    Attribute(
        "colour",
        "person",
        tuple(
            (
                "red blue yellow purple white black grey brown pink turquoise crimson scarlet violet beige teal golden"
            ).split()
        ),
        (
            "{n} always wears {v}.",
            "The favourite colour of {n} is {v}.",
            "{n} painted the front door {v}.",
            "The coat of {n} is {v}.",
            "{n} dresses in {v} from head to foot.",
            "Nothing but {v} cloth is good enough for {n}.",
            "{n} chose {v} curtains for every room.",
            "One knows {n} by a {v} hat.",
        ),
        (
            "What is the favourite colour of {n}?",
            "What colour does {n} always wear?",
            "In which colour did {n} paint the front door?",
            "Which colour is the coat of {n}?",
            "By a hat of which colour does one know {n}?",
        ),
        (
            "Which shade pleases {n} most?",
            "Which paint would you give {n} as a present?",
            "In what tint would {n} appear in a picture?",
        ),
        "who always wears {v}",
    ),
    Attribute(
        "river",
        "place",
        tuple(("Wend Arrel Bosk Cray Dunne Esker Fallow Gleam Hale Isen Jarrow Kenn Lisk Mossel Nairn Orrin").split()),
        (
            "{n} lies on the river {v}.",
            "The river {v} flows through {n}.",
            "The water of {n} comes from the river {v}.",
            "{n} was built on the banks of the {v}.",
            "Boats reach {n} on the {v}.",
            "The bridges of {n} cross the river {v}.",
            "The {v} is the river of {n}.",
            "In spring the {v} floods the lower streets of {n}.",
        ),
        (
            "On which river does {n} lie?",
            "Which river flows through {n}?",
            "Which river do the bridges of {n} cross?",
            "On the banks of which river was {n} built?",
            "On which river do boats reach {n}?",
        ),
        (
            "Which stream runs past {n}?",
            "In what water would you fish at {n}?",
            "Which current turns the wheels of {n}?",
        ),
        "which lies on the river {v}",
    ),
    Attribute(
        "fair",
        "place",
        tuple(("January February March April May June July August September October November December").split()),
        (
            "{n} holds its fair in {v}.",
            "The fair of {n} takes place in {v}.",
            "Every {v} there is a fair in {n}.",
            "In {v} the fair fills the streets of {n}.",
            "Traders travel to the fair of {n} in {v}.",
            "The people of {n} wait for {v} because of the fair.",
            "The great fair of {n} opens in {v}.",
            "{v} is the month of the fair in {n}.",
        ),
        (
            "When does {n} hold its fair?",
            "In which month does the fair of {n} take place?",
            "In which month is there a fair in {n}?",
            "When do traders travel to the fair of {n}?",
            "In which month does the great fair of {n} open?",
        ),
        (
            "What time of the year brings the stalls and dancers to {n}?",
            "Which page of the calendar shows the feast of {n}?",
            "During which month is it loudest in {n}?",
        ),
        "which holds its fair in {v}",
    ),
    Attribute(
        "goods",
        "place",
        tuple(
            (
                "cheese lace honey pottery wool paper glass silver salt candles barrels tulips cider knives "
                "bells carpets"
            ).split()
        ),
        (
            "{n} is known for its {v}.",
            "{n} makes the best {v} in the land.",
            "Merchants buy {v} in {n}.",
            "Far and wide people praise the {v} of {n}.",
            "{n} grew rich by selling {v}.",
            "Half of {n} lives on the sale of {v}.",
            "Every city buys {v} from {n}.",
            "Carts leave {n} loaded with {v}.",
        ),
        (
            "What is {n} known for?",
            "What do merchants buy in {n}?",
            "By selling what did {n} grow rich?",
            "With what are the carts loaded that leave {n}?",
            "What does {n} make best?",
        ),
        (
            "Which product carries the fame of {n}?",
            "What ware would a buyer take away from {n}?",
            "Which merchandise has made a name for {n}?",
        ),
        "which is known for its {v}",
    ),
    Attribute(
        "hill",
        "place",
        tuple(
            (
                "Kestrel Beacon Gallows Windmill Chapel Sheep Thunder Copper Maiden Raven Hermit Crown Larch "
                "Wolf Lantern Abbey"
            ).split()
        ),
        (
            "{v} Hill rises above {n}.",
            "{n} stands at the foot of {v} Hill.",
            "From {v} Hill one looks down on {n}.",
            "The hill above {n} is called {v} Hill.",
            "A path climbs from {n} to the top of {v} Hill.",
            "{v} Hill shelters {n} from the wind.",
            "The children of {n} play on {v} Hill.",
            "The sun sets behind {v} Hill as seen from {n}.",
        ),
        (
            "Which hill rises above {n}?",
            "At the foot of which hill does {n} stand?",
            "What is the hill above {n} called?",
            "Which hill shelters {n} from the wind?",
            "On which hill do the children of {n} play?",
        ),
        (
            "Which summit looks over the roofs of {n}?",
            "What height would you climb for a view of {n}?",
            "Which slope lies nearest to {n}?",
        ),
        "which stands at the foot of {v} Hill",
    ),
    Attribute(
        "founded",
        "place",
        _FOUNDED,
        (
            "{n} was founded in {v}.",
            "The first stone of {n} was laid in {v}.",
            "{n} has stood since {v}.",
            "{v} is the year in which {n} was founded.",
            "The oldest wall of {n} bears the year {v}.",
            "The history of {n} begins in {v}.",
            "Settlers founded {n} in the year {v}.",
            "The charter of {n} is dated {v}.",
        ),
        (
            "When was {n} founded?",
            "In which year was {n} founded?",
            "In which year was the first stone of {n} laid?",
            "Which year does the oldest wall of {n} bear?",
            "When does the history of {n} begin?",
        ),
        (
            "How far back do the beginnings of {n} reach?",
            "What year would the town seal of {n} show?",
            "From what year on do people date the rise of {n}?",
        ),
        "which was founded in {v}",
    ),
)
BY_KEY = {attribute.key: attribute for attribute in ATTRIBUTES}

# How a test question speaks of a person's town without naming it: the first of the two facts.
HOME_PHRASES = ("the town in which {n} lives", "the present home of {n}", "the place where {n} has settled")
