export { matrixAnnotations } from './annotations.js';
export { matrixHtml } from './html.js';
export { matrixJunit } from './junit.js';
export { matrixMarkdown } from './markdown.js';
export { matrixText } from './grid-text.js';
