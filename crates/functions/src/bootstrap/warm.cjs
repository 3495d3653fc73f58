// See warm.mjs.
module.exports = {};
