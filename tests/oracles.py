"""Independent implementations with the same weights, for tests and benchmarks."""

from diffusers import UNet2DModel

from dashkit.method.unet import Attention


def diffusers_twin(net):
    """diffusers' DDPM network with the weights of `net`."""
    cfg = net.config
    attends = [cfg.size >> i in cfg.attention for i in range(len(cfg.ch_mult))]
    theirs = UNet2DModel(
        sample_size=cfg.size, in_channels=cfg.channels, out_channels=cfg.channels, layers_per_block=cfg.blocks,
        block_out_channels=[cfg.ch * m for m in cfg.ch_mult], norm_num_groups=cfg.groups, norm_eps=1e-6,
        down_block_types=["AttnDownBlock2D" if a else "DownBlock2D" for a in attends],
        up_block_types=["AttnUpBlock2D" if a else "UpBlock2D" for a in attends[::-1]],
        attention_head_dim=None, downsample_padding=0, freq_shift=1, flip_sin_to_cos=False,
        num_class_embeds=cfg.num_classes + 1,
    )  # fmt: skip
    ours = net.state_dict()
    state = {"class_embedding.weight": ours["class_table.weight"]}
    for theirs_name, name in (("time_embedding.linear_1", "time_mlp.0"), ("time_embedding.linear_2", "time_mlp.2"),
                              ("conv_in", "conv_in"), ("conv_norm_out", "norm_out"), ("conv_out", "conv_out")):
        put(state, theirs_name, ours, name)
    levels = len(cfg.ch_mult)
    for side, count in (("down", cfg.blocks), ("up", cfg.blocks + 1)):
        index = 0
        for level in range(levels):
            for block in range(count):
                stage(state, f"{side}_blocks.{level}", block, ours, net, f"{side}.{index}")
                index += 1
            if level < levels - 1:
                sampler = "downsamplers" if side == "down" else "upsamplers"
                put(state, f"{side}_blocks.{level}.{sampler}.0.conv", ours, f"{side}.{index}")
                index += 1
    stage(state, "mid_block", 0, ours, net, "mid.0")
    stage(state, "mid_block", 1, ours, net, "mid.1")
    theirs.load_state_dict(state)
    return theirs.eval()


def put(state, theirs, ours, name):
    for kind in ("weight", "bias"):
        state[f"{theirs}.{kind}"] = ours[f"{name}.{kind}"]


def stage(state, block, index, ours, net, name):
    parts = {"norm1": "norm1", "conv1": "conv1", "time_emb_proj": "emb", "norm2": "norm2", "conv2": "conv2"}
    for theirs, part in parts.items():
        put(state, f"{block}.resnets.{index}.{theirs}", ours, f"{name}.res.{part}")
    if f"{name}.res.skip.weight" in ours:
        put(state, f"{block}.resnets.{index}.conv_shortcut", ours, f"{name}.res.skip")
    if isinstance(net.get_submodule(name).attn, Attention):
        place = f"{block}.attentions.{index}"
        put(state, f"{place}.group_norm", ours, f"{name}.attn.norm")
        put(state, f"{place}.to_out.0", ours, f"{name}.attn.out")
        for kind in ("weight", "bias"):
            q, k, v = ours[f"{name}.attn.qkv.{kind}"].chunk(3)
            state |= {f"{place}.to_q.{kind}": q, f"{place}.to_k.{kind}": k, f"{place}.to_v.{kind}": v}
