"""Training crops that live on the device: decoded once, then cut, blended and worn there, a whole batch at a time.

The same operations run on any torch device. Where each step of a GPU takes 30 ms, worker processes cannot keep up; this
package makes a batch from a table of random numbers that the host draws, and nothing waits for anything.
"""
