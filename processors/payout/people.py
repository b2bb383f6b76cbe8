"""Whether two names are one person's: four eyes are two names (rules S6, R1)."""


def named(name: str) -> str:
    """A person's name for comparing: spelling it another way makes nobody a second person."""
    return " ".join(name.split()).casefold()
