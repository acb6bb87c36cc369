import jax
import jax.numpy as jnp
import numpy as np
import pytest

from acmix_jax.ops import mixing


def test_a_quarter_of_the_images_gets_one_rectangle_of_noise():
    images = jnp.full((2000, 24, 32, 1), 100.0)
    out = np.asarray(jax.jit(mixing.erase, static_argnums=2)(images, jax.random.key(0), 0.25))[..., 0]
    erased = out != 100
    chosen = erased.any((1, 2))
    assert abs(chosen.mean() - 0.25) < 0.03
    area = erased[chosen].mean((1, 2))
    assert area.min() > 0.015
    assert area.max() < 0.36
    assert abs(area.mean() - (0.02 + 1 / 3) / 2) < 0.02
    rows, columns = erased.any(2), erased.any(1)
    np.testing.assert_array_equal(erased, rows[:, :, None] & columns[:, None])  # one rectangle
    assert abs(out[erased].mean()) < 0.02
    assert abs(out[erased].std() - 1) < 0.02
    assert 0.05 < rows[chosen][:, 0].mean() < 0.5  # anywhere in the image


def batch(rows, classes=4):
    labels = jnp.arange(rows) // 3 % classes  # three rows of each, as repeated augmentation has
    images = jnp.broadcast_to(labels[:, None, None, None].astype(float), (rows, 16, 16, 1))
    return images, jax.nn.one_hot(labels, classes)


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.8, 0.0), (0.0, 1.0), (0.8, 1.0)])
def test_target_follows_what_the_image_shows(mixup, cutmix):
    images, targets = batch(64 * mixing.GROUP)
    mixed, shares = jax.jit(mixing.mix, static_argnums=(3, 4))(images, targets, jax.random.key(1), mixup, cutmix)
    # An image's value is its class, so the mean of a mixed one is that of its target.
    np.testing.assert_allclose(mixed.mean((1, 2, 3)), shares @ jnp.arange(4), atol=1e-5)
    np.testing.assert_allclose(shares.sum(1), 1, atol=1e-6)
    ratio = np.asarray((shares * targets).sum(1)).reshape(64, mixing.GROUP)
    np.testing.assert_allclose(ratio, np.broadcast_to(ratio[:, :1], ratio.shape), atol=1e-6)
    assert len(set(ratio[:, 0].round(6))) > 20
    cut = np.asarray((mixed == jnp.round(mixed)).all((1, 2, 3))).reshape(64, -1).all(1)
    expected = 0.5 if mixup and cutmix else float(cutmix > 0)
    assert abs(cut.mean() - expected) < 0.2
    if not cutmix:
        assert abs(ratio[:, 0].std() - (1 / (4 * (2 * mixup + 1))) ** 0.5) < 0.08  # of Beta(a, a)


@pytest.mark.parametrize("rows", [8, 24, 128, 13])
def test_no_image_is_mixed_with_its_repeat(rows):
    images = jnp.arange(rows) // 3
    partners = mixing._partners(images)
    assert sorted(partners.tolist()) == images.tolist()
    assert (partners != images)[: rows // 8 * 8].all()


def test_an_odd_last_row_stays():
    images, targets = batch(5)
    mixed, shares = jax.jit(mixing.mix, static_argnums=(3, 4))(images, targets, jax.random.key(0), 0.8, 0.0)
    np.testing.assert_allclose(mixed[4], images[4], atol=1e-6)
    np.testing.assert_allclose(shares[4], targets[4], atol=1e-6)
