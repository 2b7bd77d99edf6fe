"""placeholder"""
import pytest
@pytest.mark.gpu
def test_x(): pass
