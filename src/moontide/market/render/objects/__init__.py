"""The drawn products, one function a category, and the dictionary that finds them."""

from collections.abc import Callable
from functools import lru_cache

from moontide.market.render.looks import Look
from moontide.market.render.objects import (
    bags,
    clothing,
    decoration,
    electronics,
    footwear,
    furniture,
    headwear,
    kitchen,
    leisure,
    wearables,
)
from moontide.market.render.paint import Brush

OBJECTS: dict[str, Callable[[Brush], str]] = {
    "sneaker": footwear.sneaker,
    "high heel": footwear.high_heel,
    "boot": footwear.boot,
    "sandal": footwear.sandal,
    "T-shirt": clothing.t_shirt,
    "hoodie": clothing.hoodie,
    "dress": clothing.dress,
    "trousers": clothing.trousers,
    "skirt": clothing.skirt,
    "sock": clothing.sock,
    "handbag": bags.handbag,
    "backpack": bags.backpack,
    "wristwatch": wearables.wristwatch,
    "sunglasses": wearables.sunglasses,
    "umbrella": wearables.umbrella,
    "cap": headwear.cap,
    "hat": headwear.hat,
    "mug": kitchen.mug,
    "teapot": kitchen.teapot,
    "frying pan": kitchen.frying_pan,
    "water bottle": kitchen.water_bottle,
    "wine glass": kitchen.wine_glass,
    "table lamp": furniture.table_lamp,
    "armchair": furniture.armchair,
    "vase": decoration.vase,
    "cushion": furniture.cushion,
    "clock": decoration.clock,
    "candle": decoration.candle,
    "potted plant": decoration.potted_plant,
    "headphones": electronics.headphones,
    "camera": electronics.camera,
    "phone": electronics.phone,
    "guitar": leisure.guitar,
    "ball": leisure.ball,
    "teddy bear": leisure.teddy_bear,
    "bicycle": leisure.bicycle,
    "skateboard": leisure.skateboard,
}


@lru_cache(maxsize=512)
def draw(look: Look) -> str:
    """The product as SVG inside a box of 100 by 100 units, without shadow or background."""
    return OBJECTS[look.category](Brush(look))
