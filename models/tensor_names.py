"""The names of tensors in public checkpoints: their name -> our name, for every tensor of a layout.

Every name is written out or generated from a block's number; none is guessed by similarity.
"""

NUM_BOTTLENECKS = 15
BN_FIELDS = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def prelu_names() -> dict[str, str]:
    """Of Xiaoccer/MobileFaceNet_Pytorch."""
    names: dict[str, str] = {}
    for ours, theirs in (("stem", "conv1"), ("stem_depthwise", "dw_conv1"), ("final", "conv2")):
        names |= _unit(ours, f"{theirs}.conv", f"{theirs}.bn", f"{theirs}.prelu")
    for ours, theirs in (("gdconv", "linear7"), ("embedding", "linear1")):
        names |= _unit(ours, f"{theirs}.conv", f"{theirs}.bn")
    for i in range(NUM_BOTTLENECKS):
        ours, theirs = f"blocks.{i}", f"blocks.{i}.conv"
        names |= _unit(f"{ours}.expand", f"{theirs}.0", f"{theirs}.1", f"{theirs}.2")
        names |= _unit(f"{ours}.depthwise", f"{theirs}.3", f"{theirs}.4", f"{theirs}.5")
        names |= _unit(f"{ours}.project", f"{theirs}.6", f"{theirs}.7")
    return names


def relu6_names() -> dict[str, str]:
    """Of the package mobilefacenet-pytorch."""
    names = {
        **_unit("stem", "conv1.0", "conv1.1"),
        **_unit("stem_depthwise", "dw_conv.depthwise", "dw_conv.bn1"),
        **_unit("stem_pointwise", "dw_conv.pointwise", "dw_conv.bn2"),
        **_unit("final", "conv2.0", "conv2.1"),
        **_unit("gdconv", "gdconv.depthwise", "gdconv.bn"),
        **_unit("embedding", "conv3", "bn"),
        "conv3.bias": "embedding.conv.bias",
    }
    for i in range(NUM_BOTTLENECKS):
        ours, theirs = f"blocks.{i}", f"features.{i}.conv"
        names |= _unit(f"{ours}.expand", f"{theirs}.0.0", f"{theirs}.0.1")
        names |= _unit(f"{ours}.depthwise", f"{theirs}.1.0", f"{theirs}.1.1")
        names |= _unit(f"{ours}.project", f"{theirs}.2", f"{theirs}.3")
    return names


def gdc_names() -> dict[str, str]:
    """Of bubbliiiing/arcface-pytorch.

    A stage is a strided bottleneck, conv_23, conv_34, conv_45, and repeats, conv_3, conv_4, conv_5.
    """
    names: dict[str, str] = {}
    for ours, theirs in (("stem", "conv1"), ("stem_depthwise", "conv2_dw")):
        names |= _unit(ours, f"{theirs}.conv", f"{theirs}.bn", f"{theirs}.prelu")
    names |= _unit("final", "sep", "sep_bn", "prelu") | _unit("gdconv", "GDC_dw", "GDC_bn")
    names |= _unit("embedding", "features", "last_bn")
    stages = (("conv_23", "conv_3", 4), ("conv_34", "conv_4", 6), ("conv_45", "conv_5", 2))
    bottlenecks = [
        name
        for strided, repeated, repeats in stages
        for name in (strided, *(f"{repeated}.model.{i}" for i in range(repeats)))
    ]
    for i, theirs in enumerate(bottlenecks):
        for ours, part in (("expand", "conv"), ("depthwise", "conv_dw")):
            prefix = f"{theirs}.{part}"
            names |= _unit(
                f"blocks.{i}.{ours}", f"{prefix}.conv", f"{prefix}.bn", f"{prefix}.prelu"
            )
        names |= _unit(f"blocks.{i}.project", f"{theirs}.project.conv", f"{theirs}.project.bn")
    return {f"arcface.{theirs}": ours for theirs, ours in names.items()}


def mbf_names(repeats: tuple[int, int, int, int]) -> dict[str, str]:
    """Of insightface's `mbf` with these repeats.

    It numbers layers by stage: the first convolution, its repeats, (strided, repeats) x 3.
    """

    def conv_block(ours: str, theirs: str) -> dict[str, str]:
        return _unit(ours, f"{theirs}.0", f"{theirs}.1", f"{theirs}.2")

    def bottleneck(ours: str, theirs: str) -> dict[str, str]:
        return (
            conv_block(f"{ours}.expand", f"{theirs}.0.layers")
            | conv_block(f"{ours}.depthwise", f"{theirs}.1.layers")
            | _unit(f"{ours}.project", f"{theirs}.2.layers.0", f"{theirs}.2.layers.1")
        )

    first, *later = repeats
    names = conv_block("stem", "layers.0.layers") | conv_block("final", "conv_sep.layers")
    if first == 1:
        names |= conv_block("stem_grouped", "layers.1.layers")
    else:
        for i in range(first):
            names |= bottleneck(f"stem_grouped.{i}", f"layers.1.layers.{i}.layers")
    block = 0
    for stage, repeat in enumerate(later):
        names |= bottleneck(f"blocks.{block}", f"layers.{2 + 2 * stage}.layers")
        for i in range(repeat):
            names |= bottleneck(
                f"blocks.{block + 1 + i}", f"layers.{3 + 2 * stage}.layers.{i}.layers"
            )
        block += 1 + repeat
    names |= _unit("gdconv", "features.layers.0.layers.0", "features.layers.0.layers.1")
    names["features.layers.2.weight"] = "embedding.linear.weight"
    return names | _bn("embedding.bn", "features.layers.3")


def iresnet_names(num_stages: int, blocks: int) -> dict[str, str]:
    """Of insightface's IResNets with so many stages, each of so many blocks."""
    names = _unit("stem", "conv1", "bn1", "prelu") | _bn("bn", "bn2")
    for stage in range(num_stages):
        for i in range(blocks):
            ours, theirs = f"blocks.{blocks * stage + i}", f"layer{stage + 1}.{i}"
            names |= _bn(f"{ours}.bn", f"{theirs}.bn1")
            names |= _unit(f"{ours}.conv1", f"{theirs}.conv1", f"{theirs}.bn2", f"{theirs}.prelu")
            names |= _unit(f"{ours}.conv2", f"{theirs}.conv2", f"{theirs}.bn3")
        strided, theirs = f"blocks.{blocks * stage}", f"layer{stage + 1}.0.downsample"
        names |= _unit(f"{strided}.shortcut", f"{theirs}.0", f"{theirs}.1")
    names |= {f"fc.{field}": f"embedding.linear.{field}" for field in ("weight", "bias")}
    return names | _bn("embedding.bn", "features")


def _unit(ours: str, conv: str, bn: str, prelu: str | None = None) -> dict[str, str]:
    """Names of a convolution, its BN and its PReLU; arguments are module paths."""
    names = {f"{conv}.weight": f"{ours}.conv.weight"}
    names.update({f"{bn}.{field}": f"{ours}.bn.{field}" for field in BN_FIELDS})
    if prelu is not None:
        names[f"{prelu}.weight"] = f"{ours}.act.weight"
    return names


def _bn(ours: str, theirs: str) -> dict[str, str]:
    return {f"{theirs}.{field}": f"{ours}.{field}" for field in BN_FIELDS}
