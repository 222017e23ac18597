"""`kdcompress plan`: which student fits the budgets, found by measuring candidates before anything is trained.

Latency, size and memory do not depend on the weights. What can be counted rules candidates out before they are built;
the others are built for the target by the product's own writers, with random weights and the batch-norm statistics of
real images, and are timed in groups, each with the same baseline: ratios to it connect the groups on a machine that
drifts. Every build and every group is a step, so that an interrupted plan goes on where it was.

Capacity is counted in multiply-accumulates. Over the 14 networks of the zoo that have a published CIFAR-100 accuracy
without distillation (the tables of CRD, arXiv:1910.10699) the rank correlation of accuracy with multiply-accumulates is
0.93, with parameters 0.58: parameters favour wide layers at low resolution (vgg8, mobilenetv2), which see few places.
"""
