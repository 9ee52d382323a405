#pragma once

namespace liger {

/// From now on, tensors on the CPU of 64 KiB and more lie in a range of addresses of their own. What is freed there is
/// joined with its free neighbours and used again, the smallest hole that fits first; none of it goes back to the
/// system, which would hand it out anew page by page: a fifth of the time of a small model's update. (malloc can keep
/// it too, but not use it well: its aligned blocks do not fit into the holes they leave, which took a third of the
/// memory of training.) For programs, at their begin. Does nothing where the system does not hand out such a range.
void keep_tensor_memory();

}  // namespace liger
