"""Word lists, split so that evaluation pages use words training never saw."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from string import ascii_lowercase


@dataclass(frozen=True, slots=True)
class Words:
    """One side of the split.

    `coined` is the chance that a name is made up instead of drawn from a list; `jumbled`, a part of it, the chance that
    it is made of random letters instead of syllables, so that no pair of letters stays unseen.
    """

    first: tuple[str, ...]
    last: tuple[str, ...]
    firm: tuple[str, ...]
    trade: tuple[str, ...]
    suffix: tuple[str, ...]
    quality: tuple[str, ...]
    good: tuple[str, ...]
    city: tuple[str, ...]
    topic: tuple[str, ...]
    coined: float
    jumbled: float

    def person(self, random: Random) -> str:
        first = self._name(random, self.first)
        last = self._name(random, self.last)
        style = random.random()
        if style < 0.75:
            return f"{first} {last}"
        if style < 0.9:
            return f"{first[0]}. {last}"
        return f"{random.choice(('Mr', 'Ms', 'Dr'))} {last}"

    def company(self, random: Random) -> str:
        name = self._name(random, self.firm)
        style = random.random()
        if style < 0.5:
            return f"{name} {self._listed(random, self.trade)}"
        if style < 0.85:
            return f"{name} {self._listed(random, self.suffix)}"
        return f"{self._name(random, self.last)} & {self._name(random, self.last)}"

    def item(self, random: Random) -> str:
        return f"{self._listed(random, self.quality)} {self._name(random, self.good).lower()}"

    def place(self, random: Random) -> str:
        return self._name(random, self.city)

    def matter(self, random: Random) -> str:
        """What a letter or memo is about."""
        return self._listed(random, self.topic)

    def _listed(self, random: Random, listed: tuple[str, ...]) -> str:
        """One of a short list, in the words of training often with other letters: short lists are learned by heart."""
        entry = random.choice(listed)
        if not self.jumbled or random.random() < 0.6:
            return entry
        words = [random.choice((coin, jumble))(random) if random.random() < 0.7 else word for word in entry.split()]
        return " ".join(word.capitalize() if entry[0].isupper() else word.lower() for word in words)

    def _name(self, random: Random, listed: tuple[str, ...]) -> str:
        drawn = random.random()
        if drawn < self.jumbled:
            return jumble(random).capitalize()
        return coin(random) if drawn < self.coined else random.choice(listed)


def jumble(random: Random) -> str:
    """A word of 2 to 9 random small letters, doubled ones among them."""
    word = "".join(random.choice(ascii_lowercase) * (1 + (random.random() < 0.2)) for _ in range(random.randint(2, 9)))
    return word[:9]


def coin(random: Random) -> str:
    """Make up a pronounceable capitalised word of 3 to 9 letters."""
    onsets = "b c d f g h j k l m n p r s t v w z br ch cl dr fl gr kn pl qu sh st th tr x y".split()
    vowels = "a e i o u ai ea ee io ou y".split()
    codas = ["", "", "", "l", "m", "n", "r", "s", "t", "ck", "nd", "rt", "x", "zz"]
    word = "".join(
        random.choice(onsets) + random.choice(vowels) + random.choice(codas) for _ in range(random.randint(1, 3))
    )
    return word[: random.randint(3, 9)].capitalize()


def han(random: Random) -> str:
    """A word of 1 to 6 Chinese or Japanese characters, for copying from text; pages show none."""
    first, last = random.choice(((0x4E00, 0x9FA5), (0x4E00, 0x9FA5), (0x3042, 0x3093), (0x30A2, 0x30F3)))
    return "".join(chr(random.randint(first, last)) for _ in range(random.randint(1, 6)))


TRAIN = Words(
    first=tuple(
        "Anna Ben Carla David Emma Frank Grace Henry Irene Jack Karen Leo Maria Noah Olga Paul Quinn Rosa Sam Tina Uwe Vera Walter Xenia Yusuf "
        "Zoe Adam Bella Chris Dora Eric Fiona George Hanna Ivan Julia Kevin Laura Mark Nina Oscar Petra Ralph Sofia Tom Ursula Victor Wendy Alan "
        "Brenda Cyril Diana Edgar Flora Gavin Helen Ian Jane Kurt Linda Mike Nora Omar Peggy Rita Steve Tess Mei Jun Hiro Aiko Raj Priya Lars "
        "Ingrid Pablo Lucia Marco Elena Pierre Chloe Dmitri Katya Ahmed Leila Kofi Ama Sean Maeve Owen Cerys".split()
    ),
    last=tuple(
        "Adams Baker Clark Davis Evans Foster Gray Hill Irwin Jones King Lewis Moore Nelson Owens Parker Quick Reed Scott Turner Underwood Vance "
        "White Xu Young Zeller Allen Brown Cooper Dixon Ellis Fisher Green Hughes Ingram James Kelly Long Miller Nash Olsen Price Ross Smith Taylor "
        "Usher Vega Walker Yates Zhang Becker Cohen Duarte Engel Ferrari Garcia Hansen Ito Jensen Kumar Larsen Meyer Novak Okafor Petrov Quintero "
        "Rossi Schmidt Tanaka Ueda Virtanen Wagner Yilmaz Zimmer Barnes Chapman Dawson Fleming Gibson Harper Jordan Knight Lambert Mason Newton".split()
    ),
    firm=tuple(
        "Northwind Bluebird Granite Harbor Maple Summit Orchard Pioneer Redwood Silver Sunrise Union Valley Willow Acorn Beacon Cedar Delta Eagle "
        "Falcon Golden Highland Ivory Juniper Keystone Lakeside Meadow Nova Oak Pacific Quality Royal Sterling Tiger Urban Vista Western Alpine "
        "Baltic Coral Diamond Emerald Frontier Global Horizon Island Jupiter Kingfisher Liberty Metro Nordic Olive Polar Ridge Star Trinity Vertex".split()
    ),
    trade=tuple(
        "Traders|Supplies|Tools|Motors|Foods|Books|Systems|Print|Garden Shop|Electric|Textiles|Paper Co|Hardware|Logistics|Dental Care|Bakery|Office|Optics|Travel|Bikes".split(
            "|"
        )
    ),
    suffix=tuple("Ltd|Inc|GmbH|LLC|Co|AG|Corp|Group|& Sons|Pty Ltd|Limited|Partners|BV|SA".split("|")),
    quality=tuple(
        "blue red green black white small large steel wooden glass cotton plastic heavy light round flat digital spare fresh used".split()
    ),
    good=tuple(
        "lamp desk chair bolt cable paper pen folder mug towel shirt bag clock battery hammer drill brush paint rope bucket ladder screw nail "
        "bread apple tea coffee sugar milk cheese rice pasta soap candle pillow blanket carpet mirror shelf drawer key lock wheel tyre pump filter "
        "hose valve sensor monitor mouse keyboard printer toner stapler envelope stamp notebook ruler magnet".split()
    ),
    city=tuple(
        "London Paris Berlin Madrid Rome Oslo Vienna Prague Dublin Lisbon Athens Geneva Boston Denver Austin Dallas Tokyo Osaka Delhi Sydney Perth Lima Quito Cairo Lagos Nairobi".split()
    ),
    topic=tuple(
        "office move|new parking rules|summer schedule|budget review|fire drill|server update|safety training|team meeting|holiday plan|price list|late delivery|"
        "garden fence|roof repair|heating system|library card|water damage|lease renewal|guest list|bus tickets|lost keys|staff canteen|power cut|data backup|"
        "window cleaning|printer contract|school trip|open day|night shift|travel costs|stock count".split("|")
    ),
    coined=0.45,
    jumbled=0.2,
)

HELDOUT = Words(
    first=tuple(
        "Bruno Celia Dylan Esther Felix Gwen Hugo Isla Jonas Kira Liam Mona Nigel Opal Percy Rhea Simon Thea Umar Violet Wade Yara Zane Astrid Boris".split()
    ),
    last=tuple(
        "Abbott Bishop Carver Doyle Emerson Finch Gallagher Holt Ibsen Jarvis Keller Lowe Marsh Norris Orwell Pratt Rhodes Sharpe Thorne Upton Vaughn Webb Yorke Zola".split()
    ),
    firm=tuple(
        "Amber Birch Compass Dragonfly Everest Firefly Glacier Heron Indigo Jasmine Kestrel Lantern Magnolia Nimbus Osprey Phoenix Quartz Raven Sapphire Tundra".split()
    ),
    trade=tuple("Goods|Florist|Glassworks|Fisheries|Pharmacy|Ceramics|Cycles|Joinery|Music|Stationers".split("|")),
    suffix=tuple("Ltd|Inc|GmbH|LLC|Co|AG|Holdings|Trust|& Co|Works".split("|")),
    quality=tuple("yellow grey copper leather silver thin thick square narrow wide".split()),
    good=tuple(
        "bench stool wrench chisel ribbon basket kettle spoon jacket scarf pencil binder router socket lens helmet pedal saddle trowel vase".split()
    ),
    city=tuple(
        "Munich Turin Bergen Krakow Porto Seville Lyon Bristol Leeds Tampa Kyoto Mumbai Hobart Bogota Tunis Accra".split()
    ),
    topic=tuple(
        "coffee machine|floor plan|visitor badges|tax return|bike racks|wall paint|choir concert|kitchen rota|flu vaccine|road works|spring fair|email archive".split(
            "|"
        )
    ),
    coined=0.2,
    jumbled=0.0,
)
