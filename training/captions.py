"""Words for a scene: `plain` is the one canonical caption, `varied` draws from the wordings the model shall know."""
SYNONYMS = {"sphere": "ball", "cube": "box", "ring": "hoop", "small": "little", "large": "big", "gray": "grey"}
PLURALS = {"box": "boxes"}  # the others take an s
NUMBERS = {2: "two", 3: "three"}
ABOVE, BELOW = ["on top of", "above", "over"], ["below", "under", "beneath"]
LEFT, RIGHT = ["to the left of", "left of"], ["to the right of", "right of"]
# Every word a caption can have; README lists them from here.
OPENINGS = ["", "", "", "", "", "a picture of ", "a photo of ", "there is "]
ROWS = ["{}", "{}", "{}", "{}", "{} in a row", "a row of {}"]


def article(word):
    return "an" if word[0] in "aeiou" else "a"


def plain_solid(solid):
    words = " ".join(w for w in (solid.size, solid.colour, solid.shape) if w)
    return f"{article(words)} {words}"


def several(scene, word=lambda w: w):
    """ "two red cubes": what a row holds."""
    solid, shape = scene.solids[0], word(scene.solids[0].shape)
    return f"{NUMBERS[len(scene.solids)]} {solid.colour} {PLURALS.get(shape, shape + 's')}"


def plain(scene, relation=None, background=True):
    """As the README writes prompts: "a red cube on top of a blue sphere on a gray background"."""
    solids = [plain_solid(s) for s in scene.solids]
    if scene.axis == "row":
        text = several(scene)
    elif scene.axis:
        relation = relation or {"vertical": "on top of", "horizontal": "to the left of"}[scene.axis]
        first, second = (1, 0) if relation in BELOW + RIGHT else (0, 1)
        text = f"{solids[first]} {relation} {solids[second]}"
    else:
        text = solids[0]
    return text + (f" on a {scene.background} background" if background else "")


def varied(scene, rng):
    """One of the many ways to say it."""
    pick = lambda options: options[rng.integers(len(options))]
    word = lambda w: SYNONYMS[w] if w in SYNONYMS and rng.random() < 0.2 else w
    style = pick(["article", "article", "article", "article", "bare", "the"])

    def noun(solid):
        words = " ".join(word(w) for w in (solid.size, solid.colour, solid.shape) if w)
        # "a orange star" is what people type as well
        lead = {"bare": "", "the": "the "}.get(style) if style != "article" else (
            "a " if rng.random() < 0.1 else f"{article(words)} ")
        return lead + words

    solids = [noun(s) for s in scene.solids]
    if scene.axis == "row":
        text = pick(ROWS).format(several(scene, word))
    elif scene.axis:
        forward = rng.random() < 0.5
        relation = pick((ABOVE if forward else BELOW) if scene.axis == "vertical" else (LEFT if forward else RIGHT))
        if relation in ("over", "beneath", "under", "left of", "right of") and rng.random() < 0.5:
            relation = {"over": "above", "beneath": "below", "under": "below", "left of": "to the left of", "right of": "to the right of"}[relation]
        subject, other = solids if forward else solids[::-1]
        form = rng.random()
        if form < 0.06:  # the place first: "below a red cube is a blue sphere"
            text = f"{relation} {other} is {subject}"
        elif form < 0.10:
            text = f"{subject} is {relation} {other}"
        else:
            text = f"{subject} {relation} {other}"
    else:
        text = solids[0]
    if rng.random() < 0.4:
        opening = pick(OPENINGS)
        text = (opening.replace(" is ", " are ") if scene.axis == "row" else opening) + text
    if rng.random() < 0.6:
        background = word(scene.background)
        form = rng.random()
        if form < 0.7:
            text += f" on a {background} background"
        elif form < 0.8:
            text += f", {background} background"
        elif form < 0.9:
            text += f" in front of a {background} background"
        else:
            text = f"on a {background} background, {text}"
    return text
