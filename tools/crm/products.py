"""Products: what is sold, at what price, and whether it is there."""

from __future__ import annotations

from toolenv.tools.calls import Json
from toolenv.tools.crm.arguments import Category, Money, Page, ProductId, Query, reads
from toolenv.tools.crm.queries import cents, contains, fetch, search
from toolenv.tools.world import World


@reads
def get_product_by_id(world: World, product_id: ProductId) -> dict[str, Json]:
    """Get a product's name, category, price, stock and whether it is still sold.

    Args:
        product_id: The product's id, such as PRD-00815.
    """
    sql = "SELECT id, name, category, price / 100.0 AS price, stock, active FROM products WHERE id = ?"
    product = fetch(world, sql, product_id, "product_id")
    product["active"] = bool(product["active"])
    return product


@reads
def search_products(
    world: World,
    name: Query | None = None,
    category: Category | None = None,
    max_price: Money | None = None,
    in_stock: bool | None = None,
    page: Page = 1,
) -> dict[str, Json]:
    """Search the products that are still sold by name, category, price or stock; at least one of them.

    Args:
        name: Part of the name.
        category: The products' category.
        max_price: The highest price.
        in_stock: True for products in stock, false for sold-out ones.
        page: Which page of five results.
    """
    criteria = {
        "name": (r"name LIKE ? ESCAPE '\'", contains(name)),
        "category": ("category = ?", category),
        "max_price": ("price <= ?", None if max_price is None else cents(max_price)),
        "in_stock": ("(stock > 0) = ?", in_stock),
    }
    columns = "id, name, category, price / 100.0 AS price, stock"
    return search(world, columns, "(SELECT * FROM products WHERE active)", criteria, "name, id", page)


@reads
def check_stock(world: World, product_id: ProductId) -> dict[str, Json]:
    """Tell only how many pieces of a product are in stock.

    Args:
        product_id: The product's id.
    """
    return fetch(world, "SELECT id AS product_id, stock FROM products WHERE id = ?", product_id, "product_id")
