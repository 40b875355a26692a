"""What a product can look like: categories, colors and the seven visible attributes of a look.

A look holds only what can be seen in a picture. Titles, brands and prices of single products live with the
market's catalog, not here.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Category:
    """One kind of product a stranger can name from a thumbnail, with the looks it comes in.

    Args:
        name: the key in `CATEGORIES`.
        department: top level of the shop's tree, e.g. "Footwear".
        group: middle level, e.g. "Shoes".
        materials, patterns, shapes, details: the values each attribute of a look may take.
        price_cents: plausible shop prices, lowest and highest.
        nouns: words a shop or a shopper uses for it, most usual first.
    """

    name: str
    department: str
    group: str
    materials: tuple[str, ...]
    patterns: tuple[str, ...]
    shapes: tuple[str, ...]
    details: tuple[str, ...]
    price_cents: tuple[int, int]
    nouns: tuple[str, ...]


COLORS: dict[str, tuple[int, int, int]] = {
    "black": (42, 42, 46),
    "white": (246, 245, 242),
    "gray": (140, 144, 150),
    "silver": (196, 201, 207),
    "red": (206, 38, 44),
    "burgundy": (112, 24, 48),
    "orange": (240, 126, 28),
    "yellow": (247, 205, 50),
    "olive": (116, 122, 54),
    "green": (38, 140, 72),
    "mint": (158, 220, 190),
    "teal": (18, 128, 134),
    "sky blue": (122, 188, 234),
    "blue": (36, 92, 202),
    "navy": (28, 42, 90),
    "purple": (120, 64, 164),
    "pink": (242, 142, 178),
    "beige": (220, 198, 164),
    "brown": (122, 76, 44),
}

_CLOTH = "plain stripes dots checks floral chevron stars"
_WARE = "plain stripes dots floral chevron"


def _row(name, department, group, materials, patterns, shapes, details, price_cents, nouns) -> Category:
    """A category from one table row, its lists written as words parted by blanks (nouns by commas)."""
    lists = [tuple(words.split()) for words in (materials, patterns, shapes, details)]
    return Category(name, department, group, *lists, price_cents, tuple(nouns.split(", ")))


# name, department, group; materials, patterns; shapes, details; price range, nouns
_ROWS = (
    _row("sneaker", "Footwear", "Shoes", "leather canvas knit suede",
         "plain stripes dots checks floral stars",
         "low high runner", "swoosh stripes star heel", (3900, 15900),
         "sneaker, trainer, running shoe, gym shoe"),
    _row("high heel", "Footwear", "Shoes", "leather patent suede velvet", "plain dots floral checks",
         "pump strap platform", "none bow buckle contrast", (4900, 18900),
         "high heel, pump, stiletto, heels"),
    _row("boot", "Footwear", "Boots", "leather suede rubber", "plain checks floral dots",
         "ankle mid tall", "laces buckle zip elastic", (6900, 24900), "boot, ankle boot, winter boot"),
    _row("sandal", "Footwear", "Shoes", "leather rubber canvas", "plain stripes dots floral",
         "flipflop strappy wedge", "none buckle flower studs", (1500, 7900),
         "sandal, flip-flop, summer shoe"),
    _row("T-shirt", "Clothing", "Tops", "cotton knit silk", _CLOTH,
         "crew vneck longsleeve", "none pocket logo trim", (900, 3900), "T-shirt, tee, shirt, top"),
    _row("hoodie", "Clothing", "Tops", "cotton knit velvet", "plain stripes dots checks stars chevron",
         "pullover zip cropped", "none logo contrast cuffs", (2900, 8900),
         "hoodie, hooded sweatshirt, sweater"),
    _row("dress", "Clothing", "Dresses", "cotton silk velvet denim", _CLOTH,
         "aline sheath gown", "belt bow buttons collar", (3500, 19900), "dress, gown, frock"),
    _row("trousers", "Clothing", "Bottoms", "cotton denim leather velvet", "plain stripes checks dots floral",
         "straight skinny flared", "none belt cargo sidestripe", (2900, 11900), "trousers, pants, jeans"),
    _row("skirt", "Clothing", "Bottoms", "cotton denim silk leather", _CLOTH,
         "pleated flared tiered", "none belt buttons hem", (1900, 8900), "skirt, mini skirt, midi skirt"),
    _row("sock", "Clothing", "Underwear", "cotton knit wool", "plain stripes dots checks chevron stars",
         "ankle crew knee", "heeltoe cuff both", (400, 1900), "sock, pair of socks, stocking"),
    _row("handbag", "Accessories", "Bags", "leather patent canvas straw",
         "plain stripes dots checks floral chevron",
         "tote trapeze saddle", "clasp tassel bow chain", (3900, 29900),
         "handbag, purse, shoulder bag, tote"),
    _row("backpack", "Accessories", "Bags", "canvas leather plastic",
         "plain stripes dots checks floral stars",
         "round square rolltop", "pocket patch buckles twopockets", (2900, 12900),
         "backpack, rucksack, school bag"),
    _row("wristwatch", "Accessories", "Jewelry", "leather metal rubber", "plain",
         "round square octagon", "ticks numbers chrono date", (4900, 39900), "wristwatch, watch, timepiece"),
    _row("sunglasses", "Accessories", "Eyewear", "plastic metal wood", "plain stripes dots",
         "round square aviator cateye", "dark mirror fade", (1900, 15900), "sunglasses, shades, sun glasses"),
    _row("umbrella", "Accessories", "Rainwear", "canvas plastic silk", _CLOTH,
         "dome wide deep", "hook straight panels ruffle", (1500, 5900), "umbrella, parasol, brolly"),
    _row("cap", "Accessories", "Headwear", "canvas denim leather", "plain stripes dots checks stars",
         "baseball trucker flat", "logo letter band none", (1200, 4500), "cap, baseball cap, snapback"),
    _row("hat", "Accessories", "Headwear", "felt straw suede", "plain checks dots",
         "fedora sunhat cowboy", "ribbon bow feather flower", (1900, 9900), "hat, fedora, sun hat"),
    _row("mug", "Kitchen", "Tableware", "ceramic metal glass",
         "plain stripes dots floral chevron checks stars",
         "straight tall round conical", "none heart band inside", (600, 2900), "mug, cup, coffee cup"),
    _row("teapot", "Kitchen", "Tableware", "ceramic metal glass", _WARE,
         "round tall squat", "none band flower handle", (1900, 8900), "teapot, tea pot, tea kettle"),
    _row("frying pan", "Kitchen", "Cookware", "metal ceramic enamel", "plain dots",
         "round square deep", "wood rivets helper egg", (1900, 9900), "frying pan, skillet, pan"),
    _row("water bottle", "Kitchen", "Drinkware", "metal plastic glass",
         "plain stripes dots chevron floral stars",
         "sport slim flask", "band label loop none", (900, 3900),
         "water bottle, bottle, drinking bottle, flask"),
    _row("wine glass", "Kitchen", "Drinkware", "glass", "plain stripes dots",
         "bowl tulip flute", "red white empty rim", (700, 3900), "wine glass, glass, goblet"),
    _row("table lamp", "Home", "Lighting", "ceramic metal wood glass",
         "plain stripes dots checks floral chevron",
         "cone drum dome", "ball column tripod", (2500, 14900), "table lamp, lamp, bedside lamp"),
    _row("armchair", "Home", "Furniture", "leather velvet canvas knit",
         "plain stripes dots checks floral chevron",
         "wing tub club", "buttons pillow piping", (14900, 89900), "armchair, chair, easy chair"),
    _row("vase", "Home", "Decoration", "ceramic glass metal", _WARE,
         "round tall amphora", "tulips twigs daisies", (1500, 8900), "vase, flower vase"),
    _row("cushion", "Home", "Textiles", "cotton velvet knit silk", _CLOTH,
         "square round lumbar", "piping button tassels", (1200, 5900), "cushion, pillow, throw pillow"),
    _row("clock", "Home", "Decoration", "wood metal plastic", "plain",
         "round square alarm sunburst", "numbers ticks dots", (1500, 9900), "clock, wall clock, alarm clock"),
    _row("candle", "Home", "Decoration", "wax glass metal", "plain stripes dots floral",
         "pillar jar taper", "band label drips", (700, 3900), "candle, scented candle"),
    _row("potted plant", "Home", "Plants", "ceramic straw metal wood", "plain stripes dots chevron checks",
         "cactus monstera snake palm", "rim saucer legs", (1200, 6900),
         "potted plant, houseplant, plant pot"),
    _row("headphones", "Electronics", "Audio", "plastic leather metal", "plain",
         "studio slim retro", "ring logo mic cable", (2900, 34900), "headphones, headset, earphones"),
    _row("camera", "Electronics", "Photo", "leather metal plastic", "plain",
         "reflex compact instant", "strap stripe badge", (8900, 99900),
         "camera, photo camera, digital camera"),
    _row("phone", "Electronics", "Phones", "glass metal leather", "plain stripes dots floral",
         "slim squared rounded", "dual triple ring", (19900, 119900), "phone, smartphone, mobile phone"),
    _row("guitar", "Leisure", "Music", "wood metal plastic", "plain stripes stars",
         "acoustic electric flyingv", "pickguard stripe star", (9900, 79900),
         "guitar, acoustic guitar, electric guitar"),
    _row("ball", "Leisure", "Sports", "leather rubber plastic", "plain",
         "soccer basketball beach", "none star ring", (900, 4900), "ball, football, beach ball"),
    _row("teddy bear", "Leisure", "Toys", "plush velvet knit", "plain dots checks",
         "sitting standing chubby", "bowtie scarf heart patch", (1500, 5900),
         "teddy bear, teddy, stuffed bear"),
    _row("bicycle", "Leisure", "Sports", "metal plastic", "plain",
         "city road cruiser", "basket rack fenders none", (19900, 149900), "bicycle, bike, city bike"),
    _row("skateboard", "Leisure", "Sports", "wood plastic", "plain stripes dots checks stars chevron",
         "classic longboard penny", "none stripe star bolts", (3900, 14900), "skateboard, board, longboard"),
)  # fmt: skip

CATEGORIES: dict[str, Category] = {row.name: row for row in _ROWS}


def _check(kind: str, value: str, choices) -> None:
    """Raise the ValueError a bad attribute deserves: what is wrong, the value, the choices."""
    if value not in choices:
        raise ValueError(f"unknown {kind} {value!r}: choose one of {', '.join(choices)}")


@dataclass(frozen=True)
class Look:
    """Everything about a product that a picture shows.

    Args:
        category: a key of `CATEGORIES`.
        color, second_color: keys of `COLORS`; the second one paints patterns, trims and soles.
        pattern, material, shape, detail: values the category offers.

    Raises:
        ValueError: a value is unknown; the text names it and the choices.

    >>> Look("mug", "red", "white", "dots", "ceramic", "tall", "heart").shape
    'tall'
    """

    category: str
    color: str
    second_color: str
    pattern: str
    material: str
    shape: str
    detail: str

    def __post_init__(self) -> None:
        _check("category", self.category, CATEGORIES)
        kind = CATEGORIES[self.category]
        _check("color", self.color, COLORS)
        _check("second color", self.second_color, COLORS)
        _check(f"{kind.name} pattern", self.pattern, kind.patterns)
        _check(f"{kind.name} material", self.material, kind.materials)
        _check(f"{kind.name} shape", self.shape, kind.shapes)
        _check(f"{kind.name} detail", self.detail, kind.details)


def _contrasting(color: str) -> list[str]:
    """The colors far enough from `color` (RGB distance above 110 of 441) to be seen on it."""
    rgb = np.array(COLORS[color])
    return [name for name, other in COLORS.items() if np.linalg.norm(rgb - np.array(other)) > 110]


_SECONDS = {color: _contrasting(color) for color in COLORS}


def sample_look(rng: np.random.Generator, category: str | None = None) -> Look:
    """A random look; half of the products are plain, the second color always contrasts with the first.

    Args:
        rng: the only source of chance.
        category: fixes the category; None draws one uniformly.

    Raises:
        ValueError: the category is unknown.
    """
    if category is None:
        category = list(CATEGORIES)[rng.integers(len(CATEGORIES))]
    _check("category", category, CATEGORIES)
    kind = CATEGORIES[category]
    color = list(COLORS)[rng.integers(len(COLORS))]
    seconds = _SECONDS[color]
    second = seconds[rng.integers(len(seconds))]
    is_plain = rng.random() < 0.5
    pattern = "plain" if is_plain else kind.patterns[rng.integers(len(kind.patterns))]
    material, shape, detail = (
        values[rng.integers(len(values))] for values in (kind.materials, kind.shapes, kind.details)
    )
    return Look(category, color, second, pattern, material, shape, detail)
