"""Mean and standard deviation of the channels of ImageNet's images, in [0, 1]. Free of torch."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
