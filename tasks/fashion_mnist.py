"""Fashion-MNIST: 70,000 pictures of clothes, a harder drop-in for MNIST."""

from typing import ClassVar

from altprop.tasks.archives import Archive
from altprop.tasks.images import ImageTask


class FashionMnist(ImageTask):
    """Clothes by 28x28 pixels, in ten classes from T-shirt to ankle boot.

    Paper: Xiao, Rasul and Vollgraf 2017, Fashion-MNIST: a novel image dataset for benchmarking machine learning
    algorithms.
    """

    archive: ClassVar[Archive] = Archive(
        name="fashion_mnist",
        folder="fashion-mnist",
        url="http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        by_hand="apt-get install dataset-fashion-mnist; without root: apt-get download dataset-fashion-mnist, "
        "dpkg -x dataset-fashion-mnist_*.deb FOLDER, then task.path=FOLDER",
        sha256={
            "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        },
    )
