"""The words of a shop: brand names, what an attribute value is called, hidden qualities, filler.

The keys are the values of `render.looks`; the words are what merchants print and shoppers type, most usual
first. Titles are put together in `listing.py`; shoppers' queries may use the same words.
"""

from __future__ import annotations

import numpy as np

from moontide.market.render.looks import CATEGORIES, Look

VISIBLE = ("color", "pattern", "material", "shape", "detail")  # a picture shows them, material least
HIDDEN = ("feature", "use", "style", "audience")  # only words tell them

_COLORS = {
    "black": "black, jet black", "white": "white, off white", "gray": "gray, grey, charcoal",
    "silver": "silver", "red": "red, scarlet", "burgundy": "burgundy, wine red, maroon", "orange": "orange",
    "yellow": "yellow, mustard", "olive": "olive, army green", "green": "green, emerald",
    "mint": "mint, mint green", "teal": "teal, turquoise", "sky blue": "sky blue, light blue, baby blue",
    "blue": "blue, royal blue, cobalt", "navy": "navy, dark blue", "purple": "purple, violet",
    "pink": "pink, rose", "beige": "beige, cream, sand", "brown": "brown, chocolate",
}  # fmt: skip
_PATTERNS = {
    "plain": "solid, plain", "stripes": "striped, stripe", "dots": "polka dot, dotted",
    "checks": "checked, plaid, checkered", "floral": "floral, flower print", "chevron": "chevron, zigzag",
    "stars": "star print, starry",
}  # fmt: skip
_MATERIALS = {
    "leather": "leather, genuine leather", "patent": "patent leather, glossy leather", "suede": "suede",
    "canvas": "canvas", "knit": "knit, knitted", "cotton": "cotton, 100% cotton", "denim": "denim",
    "wool": "wool", "felt": "felt, wool felt", "silk": "silk, silky", "velvet": "velvet",
    "rubber": "rubber", "straw": "straw, woven straw", "metal": "metal, steel", "glass": "glass",
    "wood": "wooden, wood", "ceramic": "ceramic, porcelain", "enamel": "enamel, enameled",
    "plastic": "plastic, ABS", "plush": "plush", "wax": "wax, soy wax",
}  # fmt: skip
# "value" for all categories, "category:value" where one calls it differently; others are their own word
_SHAPES = {
    "sneaker:low": "low top", "sneaker:high": "high top", "sneaker:runner": "chunky sole, runner style",
    "strap": "ankle strap", "pump": "closed toe", "mid": "mid calf", "boot:tall": "knee high",
    "boot:ankle": "ankle high", "flipflop": "toe post", "crew": "crew neck, round neck",
    "vneck": "V neck", "longsleeve": "long sleeve", "zip": "zip up, full zip", "aline": "A-line",
    "sheath": "sheath, bodycon", "gown": "floor length, maxi", "straight": "straight leg",
    "skinny": "skinny, slim fit", "trousers:flared": "flared, bootcut", "skirt:flared": "flared, skater",
    "tiered": "tiered, layered", "sock:ankle": "ankle length", "sock:crew": "crew length",
    "knee": "knee high", "trapeze": "trapeze, structured", "saddle": "saddle, crossbody",
    "tote": "tote, open top", "rolltop": "roll top", "backpack:square": "square, boxy",
    "octagon": "octagonal", "aviator": "aviator, pilot", "cateye": "cat eye",
    "umbrella:dome": "dome, bubble", "wide": "wide canopy, golf size",
    "umbrella:deep": "deep canopy, birdcage", "baseball": "curved brim", "trucker": "trucker, mesh back",
    "flat": "flat brim", "sunhat": "wide brim", "cowboy": "cowboy, western",
    "mug:straight": "straight, cylinder", "conical": "conical, tapered", "squat": "squat, low",
    "frying pan:deep": "deep, high side", "sport": "sport, sports cap", "flask": "flask, wide body",
    "bowl": "balloon, large bowl", "cone": "cone shade", "drum": "drum shade",
    "table lamp:dome": "dome shade, mushroom", "wing": "wingback", "tub": "tub, barrel",
    "club": "club, lounge", "lumbar": "lumbar, rectangular", "alarm": "twin bell", "pillar": "pillar",
    "snake": "snake plant, sansevieria", "studio": "over ear, studio", "retro": "retro, on ear",
    "reflex": "SLR, reflex", "squared": "flat edge", "rounded": "curved edge", "flyingv": "flying V",
    "soccer": "soccer", "chubby": "chubby, chunky", "cruiser": "cruiser", "penny": "mini cruiser, penny",
}  # fmt: skip
_DETAILS = {
    "swoosh": "side wave", "stripes": "side stripes", "sneaker:star": "star patch", "heel": "heel tab",
    "high heel:contrast": "contrast sole", "contrast": "contrast trim", "zip": "side zip",
    "elastic": "elastic sides", "T-shirt:pocket": "chest pocket", "backpack:pocket": "front pocket",
    "logo": "logo print", "trim": "contrast trim", "cuffs": "ribbed cuffs", "cargo": "cargo pockets",
    "sidestripe": "side stripe", "hem": "contrast hem", "heeltoe": "contrast heel and toe",
    "cuff": "contrast cuff", "both": "contrast cuff and heel", "clasp": "metal clasp",
    "chain": "chain strap", "backpack:patch": "logo patch", "twopockets": "two pockets",
    "ticks": "hour marks, index dial", "numbers": "numeral dial, numbers", "chrono": "chronograph dial",
    "date": "date window", "dark": "dark lenses", "mirror": "mirrored lenses", "fade": "gradient lenses",
    "hook": "hook handle, J handle", "straight": "straight handle", "panels": "two tone panels",
    "ruffle": "ruffle edge", "letter": "letter patch", "cap:band": "contrast band", "ribbon": "ribbon band",
    "heart": "heart print", "band": "contrast band", "inside": "colored inside",
    "teapot:flower": "flower motif", "handle": "colored handle", "wood": "wooden handle",
    "rivets": "riveted handle", "helper": "helper handle", "egg": "egg picture", "loop": "carry loop",
    "red": "red tint", "white": "white tint", "rim": "contrast rim", "ball": "ball base",
    "column": "column base", "tripod": "tripod legs", "armchair:buttons": "tufted back",
    "pillow": "extra pillow", "piping": "contrast piping", "twigs": "dried twigs",
    "button": "center button", "drips": "melted drips", "legs": "wooden legs, stand", "ring": "accent ring",
    "mic": "boom mic, microphone", "cable": "audio cable", "camera:strap": "neck strap",
    "stripe": "accent stripe", "dual": "dual camera", "triple": "triple camera",
    "phone:ring": "ring camera", "star": "star motif", "bowtie": "bow tie", "basket": "front basket",
    "rack": "rear rack", "bolts": "colored bolts", "cap:logo": "front logo",
    "teddy bear:patch": "belly patch", "strap": "carry strap",
}  # fmt: skip
_TABLES = {
    "color": _COLORS,
    "pattern": _PATTERNS,
    "material": _MATERIALS,
    "shape": _SHAPES,
    "detail": _DETAILS,
}

# category, group or department -> what a picture cannot show; the closest entry counts
_FEATURES = {
    "Footwear": "waterproof, breathable, non-slip, lightweight, vegan, memory foam, wide fit, arch support",
    "Clothing": "organic, quick dry, breathable, machine washable, recycled, stretch, wrinkle free, thermal",
    "Bags": "water resistant, anti-theft, lightweight, vegan, handmade, laptop sleeve, machine washable",
    "Jewelry": "waterproof, scratch resistant, solar powered, automatic, hypoallergenic",
    "Eyewear": "polarized, UV400, shatterproof, lightweight, prescription ready",
    "Rainwear": "windproof, auto open, UV blocking, fast drying, rustproof, reinforced",
    "Headwear": "adjustable, UPF 50, sweat wicking, packable, water repellent, handmade",
    "Tableware": "dishwasher safe, microwave safe, handmade, lead free, chip resistant",
    "Cookware": "non-stick, induction ready, PFAS free, oven safe, dishwasher safe",
    "Drinkware": "dishwasher safe, lead free, handmade, shatterproof, gift boxed",
    "water bottle": "BPA free, leakproof, insulated, dishwasher safe, fizz proof",
    "Lighting": "dimmable, energy saving, touch control, USB powered, flicker free",
    "Furniture": "stain resistant, easy assembly, pet friendly, ergonomic, fire retardant",
    "vase": "watertight, handmade, fair trade, scratch resistant",
    "clock": "silent, battery included, radio controlled, shatterproof",
    "candle": "scented, long burning, vegan, smokeless, unscented",
    "Textiles": "hypoallergenic, machine washable, organic, fair trade, stain resistant",
    "Plants": "low maintenance, air purifying, pet safe, self watering, artificial",
    "Audio": "noise cancelling, wireless, fast charging, sweatproof, long battery",
    "Photo": "4K video, image stabilized, weather sealed, WiFi, beginner friendly",
    "Phones": "5G, dual SIM, fast charging, waterproof, refurbished",
    "Music": "beginner friendly, handmade, low action, with case, full size",
    "Sports": "official size, all weather, extra grip, durable, match quality",
    "bicycle": "7 speed, puncture proof, lightweight, rustproof, disc brakes",
    "skateboard": "silent wheels, extra grip, beginner friendly, handmade, high speed bearings",
    "Toys": "hypoallergenic, machine washable, organic, safety tested, weighted",
}  # fmt: skip
# feature -> values of a look that deny it
_DENIED = {
    "vegan": "leather patent suede wool silk felt", "microwave safe": "metal", "shatterproof": "glass",
    "machine washable": "leather patent suede", "organic": "leather", "stretch": "leather",
    "quick dry": "leather velvet", "breathable": "rubber", "oven safe": "wood", "wireless": "cable",
    "4K video": "instant", "image stabilized": "instant", "WiFi": "instant",
}  # fmt: skip
_EXCLUSIVE = (
    {"scented", "unscented"}, {"solar powered", "automatic"}, {"artificial", "air purifying"},
    {"artificial", "self watering"}, {"solar powered", "battery included"},
)  # fmt: skip
_USES = {
    "Footwear": "office, gym, travel, party, everyday wear, walking, wedding",
    "high heel": "office, party, wedding, date night, prom",
    "Clothing": "office, travel, party, everyday wear, lounging, school, summer",
    "Accessories": "travel, everyday use, party, vacation, commuting, festivals",
    "Kitchen": "camping, family dinners, everyday use, office, small kitchens, parties",
    "Home": "living room, bedroom, office, nursery, hallway, balcony",
    "Electronics": "travel, gaming, work from home, sports, everyday use",
    "Leisure": "beach, school, training, commuting, parks, weekends",
    "Music": "home practice, school, stage, campfires", "Toys": "nursery, bedtime, travel, birthdays",
}  # fmt: skip
_AUDIENCES = {
    "Footwear": "women, men, girls, boys, kids", "high heel": "women, teens, brides",
    "Clothing": "women, men, girls, boys, teens", "Dresses": "women, girls, teens",
    "skirt": "women, girls, teens",
    "Accessories": "women, men, kids, teens", "handbag": "women, teens, moms",
    "Kitchen": "students, families, couples", "Home": "students, families, new homes",
    "Electronics": "beginners, professionals, teens, seniors", "Leisure": "kids, adults, beginners, teens",
    "Toys": "kids, babies, toddlers, collectors",
}  # fmt: skip
STYLES = (
    "vintage",
    "modern",
    "classic",
    "minimalist",
    "boho",
    "urban",
    "elegant",
    "casual",
    "luxury",
    "cute",
)

FILLERS_FRONT = (
    "2026 new",
    "hot",
    "new arrival",
    "premium",
    "best seller",
    "sale",
    "limited edition",
    "trendy",
)
FILLERS_BACK = (
    "free shipping", "2026 new", "gift idea", "high quality", "fast delivery", "top rated", "new season",
    "gift box", "30 day returns", "official store", "clearance", "ships today",
)  # fmt: skip
SELLING_POINTS_OFTEN_BANNED = (
    "hot",
    "best seller",
    "clearance",
    "top rated",
    "luxury",
    "premium",
    "sale",
    "cute",
)

# nouns that say more than the category: allowed only on products that have one of the values
NOUN_NEEDS = {
    "running shoe": "runner", "pump": "pump", "ankle boot": "ankle", "flip-flop": "flipflop",
    "jeans": "denim", "tote": "tote", "fedora": "fedora", "sun hat": "sunhat", "baseball cap": "baseball",
    "flask": "flask", "acoustic guitar": "acoustic", "electric guitar": "electric", "football": "soccer",
    "beach ball": "beach", "city bike": "city", "longboard": "longboard", "alarm clock": "alarm",
    "scented candle": "scented", "wall clock": "round square sunburst",
}  # fmt: skip
TAIL_FEATURES = frozenset(
    (
        "memory foam", "wide fit", "arch support", "laptop sleeve", "UPF 50", "with case", "low action",
        "4K video", "disc brakes", "silent wheels", "high speed bearings", "extra grip", "long battery",
        "WiFi", "full size",
    )
)  # fmt: skip
PLURAL = frozenset(("sneaker", "high heel", "boot", "sandal", "sock"))  # sold in pairs

_STARTS = (
    "Vel Tar Nor Bel Kas Lum Orin Fen Mar Sol Riv Cal Dov Hal Jun Pel Quil Ster Thal Wren Zan Brin Cor Gal"
)
_ENDS = (
    "mora nick wick lindo ridge ella ion ano bury stead andra ette ium oro iva loom kett mark den osa field"
)
_SECONDS = "Dale, Brook, Studio, Home, Lane, Fox, Supply, Works, Row, Bay"


def say(attribute: str, value: str, category: str, rng: np.random.Generator | None = None) -> str:
    """What a shop calls the value of a visible attribute; "" for a detail that is not there.

    Args:
        attribute: one of `VISIBLE`.
        value: a value of `render.looks`.
        rng: draws among the synonyms, the usual word 70 % of the time; None gives the usual word.

    Example:
        >>> say("shape", "vneck", "T-shirt"), say("pattern", "dots", "mug"), say("detail", "none", "cap")
        ('V neck', 'polka dot', '')
    """
    words = synonyms(attribute, value, category)
    chance = rng.random() if rng else 0.0  # one draw whatever the value, so that colorways share their titles
    return words[0] if chance < 0.7 else words[int((chance - 0.7) / 0.3 * (len(words) - 1) + 1) % len(words)]


def synonyms(attribute: str, value: str, category: str) -> tuple[str, ...]:
    """All words for the value of a visible attribute, the usual one first; ("",) for an absent detail."""
    if attribute == "detail" and value in ("none", "empty"):
        return ("",)
    table = _TABLES[attribute]
    return tuple((table.get(f"{category}:{value}") or table.get(value) or value).split(", "))


def choices(attribute: str, category: str) -> tuple[str, ...]:
    """The words a hidden attribute may take in a category."""
    kind = CATEGORIES[category]
    if attribute == "style":
        return tuple(style for style in STYLES if style not in kind.shapes)
    table = {"feature": _FEATURES, "use": _USES, "audience": _AUDIENCES}[attribute]
    closest = next(key for key in (kind.name, kind.group, kind.department) if key in table)
    return tuple(table[closest].split(", "))


def sample_hidden(look: Look, rng: np.random.Generator) -> dict[str, tuple[str, ...]]:
    """True values of the hidden attributes: one each, of features in half of the products two.

    No feature contradicts the look (a metal mug is not microwave safe) or the other feature.
    """
    hidden = {}
    for key in HIDDEN:
        count = 2 if key == "feature" and rng.random() < 0.5 else 1
        shown = {look.material, look.shape, look.detail}
        words = [
            word
            for word in choices(key, look.category)
            if key != "feature" or not shown & set(_DENIED.get(word, "").split())
        ]
        picked = tuple(map(str, rng.choice(words, count, replace=False)))
        hidden[key] = picked[:1] if set(picked) in _EXCLUSIVE else picked
    return hidden


def brand_names(num: int, rng: np.random.Generator) -> list[str]:
    """Invented brand names, all different, one in five of two words."""
    starts, ends, seconds = _STARTS.split(), _ENDS.split(), _SECONDS.split(", ")
    names: dict[str, None] = {}
    while len(names) < num:
        name = starts[rng.integers(len(starts))] + ends[rng.integers(len(ends))]
        if len(names) > 400:  # the two-part names run out: lengthen
            name += "-" + starts[rng.integers(len(starts))]
        if rng.random() < 0.2:
            name += " " + seconds[rng.integers(len(seconds))]
        names.setdefault(name)
    return list(names)
