"""Functions that configs of tests name."""


def brightness(frames, facts):
    if facts.get("broken"):
        raise ArithmeticError("no light")
    return {"caption": f"  a picture of level {int(frames.mean())} \n", "tags": [f"level {int(frames.mean())}"]}


def nothing(frames, facts):
    return None


def no_text(frames, facts):
    return 7


def always_broken(frames, facts):
    raise ArithmeticError("no light at all")


def batched(frames, facts):
    batched.sizes.append(len(frames))
    if any(fact.get("broken") for fact in facts):
        raise ArithmeticError("one of them")
    return [f"{len(each)} frames of {fact['uri']}" for each, fact in zip(frames, facts, strict=True)]


batched.batch = True  # type: ignore[attr-defined]
batched.sizes = []  # type: ignore[attr-defined]


def one_for_all(frames, facts):
    return ["the same"]


one_for_all.batch = True  # type: ignore[attr-defined]
