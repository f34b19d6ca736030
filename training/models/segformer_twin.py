"""transformers' SegFormer with the weights of this project's: an independent network to compare with."""

from __future__ import annotations

from typing import Any

from transformers import SegformerConfig, SegformerForSemanticSegmentation

from training.models.encoder import MIT_SIZES
from training.models.segmentor import AnymodalSegmentor


def transformers_twin(network: AnymodalSegmentor) -> SegformerForSemanticSegmentation:
    """transformers' SegFormer with the weights of ours, in evaluation mode.

    Its own code ignores the configured eps of its layer norms; here they have it.
    """
    shape = MIT_SIZES[network.config.encoder]
    labels: dict[str, Any] = {
        "num_labels": network.config.classes
    }  # an argument of all configurations
    twin: Any = SegformerForSemanticSegmentation(
        SegformerConfig(
            hidden_sizes=list(shape.channels),
            depths=list(shape.depths),
            decoder_hidden_size=network.config.head_width,
            drop_path_rate=0.0,
            classifier_dropout_prob=network.config.dropout,
            **labels,
        )
    )
    weights = {}
    for name, value in network.state_dict().items():
        if name in ("mean", "std"):
            continue
        for ours, theirs in (
            ("encoder.stages", "segformer.stages"),
            ("patch_embed.norm", "patch_embeddings.layer_norm"),
            ("patch_embed.proj", "patch_embeddings.proj"),
            ("attention.reduce", "attention.sequence_reduction.sequence_reduction"),
            ("attention.norm", "attention.sequence_reduction.layer_norm"),
            ("attention.q.", "attention.q_proj."),
            ("attention.proj", "attention.o_proj"),
            ("norm1", "layernorm_before"),
            ("norm2", "layernorm_after"),
            ("mlp.depthwise", "mlp.dwconv.dwconv"),
            ("head.projections", "decode_head.linear_projections"),
            ("head.fuse", "decode_head.linear_fuse"),
            ("head.norm", "decode_head.batch_norm"),
            ("head.classifier", "decode_head.classifier"),
        ):
            name = name.replace(ours, theirs)
        if "linear_projections" in name:
            stem, kind = name.rsplit(".", 1)
            name = f"{stem}.proj.{kind}"
        if name.startswith("segformer") and name.split(".")[3] == "norm":
            name = name.replace(".norm.", ".layer_norm.")
        if "attention.kv." in name:
            for part, half in zip(("k_proj", "v_proj"), value.chunk(2), strict=True):
                weights[name.replace("kv", part)] = half
        else:
            weights[name] = value
    twin.load_state_dict(weights, strict=True)
    for stage in twin.segformer.stages:
        stage.layer_norm.eps = 1e-6
        for block in stage.blocks:
            block.layernorm_before.eps = block.layernorm_after.eps = 1e-6
    result: SegformerForSemanticSegmentation = twin.eval()
    return result
