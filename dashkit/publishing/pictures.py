"""The pictures of the front page, drawn from networks and tables that come with the kit.

`python -m dashkit.publishing.pictures` writes `data/results/cifar16/guidance.png`.
"""

from dashkit.analysis.tables import RESULTS, published_results
from dashkit.classroom import photos, plots
from dashkit.experiments import start_run
from dashkit.storage import paths, store


def main() -> None:
    """Draw and write the pictures."""
    paths.require_project()
    plots.use_style()
    run = start_run("cifar16", device="cpu")
    images = photos.sampled(run, list(photos.SHOWN), photos.SCALES, photos.CLASSES)
    sheet = photos.plot_guidance(images, titles=photos.SHOWN, scales=photos.SCALES,
                                 columns=[run.images.class_name(k) for k in photos.CLASSES])
    store.write_bytes(RESULTS / "cifar16" / "guidance.png", plots.png(sheet))
    table = published_results("cifar16").table
    if table.metric.str.startswith("frechet@w=").any():                  # samples were compared with photographs
        curve = plots.plot_w_curve(table, arms=["composite", *photos.SHOWN, "scratch"])
        store.write_bytes(RESULTS / "cifar16" / "w_curve.png", plots.png(curve.figure))


if __name__ == "__main__":
    main()
